// One result beside the query: proof, scores and feedback.

import { call } from "./api.js";
import { $, button, div, h, nameOf, percent, place, put, s, small, showStatus } from "./dom.js";
import { idLink } from "./state.js";
import { thumbnail } from "./thumbnails.js";
import { metadata, sentence } from "./words.js";

const STAGES = { cosine: "Overall similarity (cosine)", refinement: "Agreement with neighbours", geometry: "Matching details", ordered: "Final score" };
const dialog = $("#proof");
let results, picture, like, at, redraw;

/** (results, which, picture() → the query's <img> or null, like(id, sign)) */
export function openProof(...given) {
	let n;
	[results, n, picture, like] = given;
	dialog.showModal();
	show(n);
}

dialog.addEventListener("keydown", ({ key, target }) => {
	const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
	if (step && results[at + step] && !target.matches("input")) show(at + step);
});
dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close());
const sizes = new ResizeObserver(() => redraw?.());

function show(n) {
	at = n;
	const result = results[n];
	const step = (label, by, name) => button(label, () => show(at + by), { disabled: !results[n + by], "aria-label": name });
	const body = h("div");
	const title = h("h2", { id: "proof-title", tabindex: "-1" }, sentence(result));
	put(dialog, [h("header", {}, h("div", {}, title, small(nameOf(result.key))), h("div", { class: "buttons" },
		step("‹", -1, "Previous result"), step("›", 1, "Next result"), button("Close", () => dialog.close(), { class: "quiet" }))), body]);
	dialog.scrollTop = 0;
	title.focus();
	draw(body, result);
}

function draw(body, result) {
	const query = picture(), match = query && result.explain?.matches[0];
	const target = thumbnail(result.id, "", 1024);
	const lines = s("svg", { "aria-hidden": "true" });
	const figure = (image, label) => image && h("figure", {}, image, h("figcaption", {}, label));
	const pair = div("pair", figure(query, "Query"), figure(target, "Result"), lines);
	sizes.disconnect();
	for (const each of [pair, query, target]) each && sizes.observe(each);
	redraw = match && (() => join(lines, [query, match.query], [target, match.target]));
	put(body, [match ? views(pair, match, result) : pair, div("facts", ...facts(result, match))]);
}

/** Side by side, or one over the other. */
function views(pair, match, result) {
	const over = thumbnail(result.id, "", 1024);
	const slider = h("input", { type: "range", min: 0, max: 100, "aria-label": "Opacity of the result over the query", oninput: fade });
	const overlay = h("div", { class: "overlay", hidden: true }, div("laid", picture(), over),
		h("label", { class: "line" }, "Query", slider, "Result"));
	const choice = (label, shown, hidden, checked) => h("label", {}, h("input", { type: "radio", name: "view", checked, onchange() {
		shown.hidden = false;
		hidden.hidden = true;
	} }), h("span", {}, label));
	function fade() { over.style.opacity = slider.value / 100; }
	fade();
	// so that its matched box lies on the query's
	const { query, target } = match;
	const [width, height] = [0, 1].map((side) => (query[side + 2] - query[side]) / (target[side + 2] - target[side]));
	place(over, { width, height, left: query[0] - target[0] * width, top: query[1] - target[1] * height });
	return [h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "How to compare"),
		choice("Side by side", pair, overlay, true), choice("Overlay", overlay, pair)), pair, overlay];
}

/** The matched boxes, and lines from corner to corner. */
function join(lines, ...sides) {
	const edge = lines.getBoundingClientRect();
	const [mine, theirs] = sides.map(([image, box]) => {
		const { left, top, width, height } = image.getBoundingClientRect();
		return box.map((share, side) => (side % 2 ? top - edge.top + share * height : left - edge.left + share * width));
	});
	const rect = ([x, y, right, bottom]) => s("rect", { x, y, width: Math.max(0, right - x), height: Math.max(0, bottom - y), rx: 4 });
	const line = ([x, y]) => s("line", { x1: mine[x], y1: mine[y], x2: theirs[x], y2: theirs[y] });
	put(lines, [[[0, 1], [2, 1], [0, 3], [2, 3]].map(line), rect(mine), rect(theirs)]);
}

function facts(result, match) {
	const { id, explain, probability, payload, score, rerank_score: ordered, request_id, query_id } = result;
	const rows = (...pairs) => h("dl", {}, pairs.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
	const scores = Object.entries({ cosine: score, ...explain?.scores, ...(ordered != null && { ordered }) });
	const act = (label, does) => button(label, () => { dialog.close(); does(); });
	const feedback = (label, kind) => button(label, async () => {
		const json = { request_id, id, kind, ...(query_id && { query_id }) };
		const text = await call("v1/feedback", { json }).then(() => "Thank you. Your answer is stored to measure search quality.", (problem) => `Not stored: ${problem.message}`);
		showStatus(judged, text);
	});
	const judged = div("buttons", "Is this what you looked for?", feedback("Yes", "relevant"), feedback("No", "not_relevant"));
	const matched = match ? [
		["Query area found in the result", percent(explain.overlap_query / 100)], ["Result area found in the query", percent(explain.overlap_target / 100)],
		["Matching points", explain.inliers]] : [["Matching regions", "none"]];
	return [
		rows(...matched, ["Probability", probability == null ? "not computed" : percent(probability)]),
		rows(...scores.map(([name, value]) => [STAGES[name] || name, value.toFixed(3)])),
		rows(...metadata(payload)),
		div("last", judged, div("buttons", act("More like this", () => like(id, 1)),
			act("Less like this", () => like(id, -1)), act("Search with it", () => { location.hash = idLink(id); }))),
	];
}
