// One result beside the query: proof, scores and feedback.

import { call } from "./api.js";
import { $, announce, button, div, h, nameOf, percent, place, put, s, small, showStatus } from "./dom.js";
import { inverse, laidOver, shared } from "./homography.js";
import { idLink } from "./state.js";
import { thumbnail } from "./thumbnails.js";
import { basisOf, editsOf, metadata, sentence } from "./words.js";

const STAGES = { cosine: "Overall similarity (cosine)", refinement: "Agreement with neighbours", geometry: "Matching details", ordered: "Final score" };
const dialog = $("#proof");
let results, query, like, at, redraw;

/** (results, which, {picture() → the query's <img> or null, source() → it as POST /v1/compare takes it, or null, settled(result, which)}, like(id, sign)) */
export function openProof(...given) {
	let n;
	[results, n, query, like] = given;
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
	const edits = h("p", { class: "edits" }, editsOf(result));
	put(dialog, [h("header", {}, h("div", {}, title, edits, small(nameOf(result.key))), h("div", { class: "buttons" },
		step("‹", -1, "Previous result"), step("›", 1, "Next result"), button("Close", () => dialog.close(), { class: "quiet" }))), body]);
	dialog.scrollTop = 0;
	title.focus();
	draw(body, result);
	settle(result).then((changed) => {
		if (!changed) return;
		query.settled(result, n);
		if (!body.isConnected) return;
		title.textContent = sentence(result);
		edits.textContent = editsOf(result);
		announce(`${sentence(result)}. ${editsOf(result)}`);
		draw(body, result);
	});
}

/** A search compares the pixels of its first results only; this one is looked at. */
async function settle(result) {
	if (result.rests_on !== "index") return false;
	const first = await query.source();
	if (!first) return false;
	const { explain, verdict, probability, rests_on, edits } = await call("v1/compare", { json: { first, second: { id: result.id } }, quiet: true }).catch(() => ({}));
	if (rests_on !== "pixels") return false;
	Object.assign(result, { verdict, probability, rests_on, edits, explain: { ...explain, scores: result.explain?.scores } });
	return true;
}

function draw(body, result) {
	const picture = query.picture(), { matches: [match] = [], transform, differences = [] } = picture && result.explain || {};
	const target = thumbnail(result.id, "", 1024);
	const lines = s("svg", { "aria-hidden": "true" });
	const figure = (image, label) => image && h("figure", {}, image, h("figcaption", {}, label));
	const pair = div("pair", figure(picture, "Query"), figure(target, "Result"), lines);
	const corners = transform ? shared(transform) : match && [match.query, match.target].map(cornersOf);
	const overlay = corners && over(result.id, transform, match, differences);
	sizes.disconnect();
	for (const each of [pair, picture, target, overlay?.below]) each && sizes.observe(each);
	redraw = corners && (() => {
		join(lines, [picture, target], corners, differences);
		overlay.lay();
	});
	put(body, [overlay && views(pair, overlay.element), pair, overlay?.element, div("facts", ...facts(result, match))]);
}

const cornersOf = ([left, top, right, bottom]) => [[left, top], [right, top], [right, bottom], [left, bottom]];

function views(pair, overlay) {
	const choice = (label, shown, hidden, checked) => h("label", {}, h("input", { type: "radio", name: "view", checked, onchange() {
		shown.hidden = false;
		hidden.hidden = true;
	} }), h("span", {}, label));
	return h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "How to compare"),
		choice("Side by side", pair, overlay, true), choice("Overlay", overlay, pair));
}

/** The result over the query, turned and scaled so that what both show lies in one place. */
function over(id, transform, match, differences) {
	const below = query.picture(), above = thumbnail(id, "", 1024);
	const slider = h("input", { type: "range", min: 0, max: 100, "aria-label": "Opacity of the result over the query", oninput: fade });
	function fade() { above.style.opacity = slider.value / 100; }
	fade();
	const marks = differences.map(({ query: [left, top, right, bottom] }) => {
		const mark = h("i", { class: "differs" });
		place(mark, { left, top, width: right - left, height: bottom - top });
		return mark;
	});
	const placed = transform ? inverse(transform) : boxOver(match);
	return {
		below,
		lay() { above.style.transform = laidOver(placed, below.clientWidth, below.clientHeight); },
		element: h("div", { class: "overlay", hidden: true }, div("laid", below, above, ...marks),
			h("label", { class: "line" }, "Query", slider, "Result"),
			differences.length > 0 && small("Outlined: where they differ.")),
	};
}

/** What lays the matched box of the result on the query's. */
function boxOver({ query, target }) {
	const [width, height] = [0, 1].map((side) => (query[side + 2] - query[side]) / (target[side + 2] - target[side]));
	return [width, 0, query[0] - target[0] * width, 0, height, query[1] - target[1] * height, 0, 0, 1];
}

/** What both images show, joined from corner to corner, and where they differ. */
function join(lines, images, corners, differences) {
	const edge = lines.getBoundingClientRect();
	const places = images.map((image) => {
		const { left, top, width, height } = image.getBoundingClientRect();
		return ([x, y]) => [left - edge.left + x * width, top - edge.top + y * height];
	});
	const [mine, theirs] = corners.map((each, n) => each.map(places[n]));
	const outline = (points, name) => s("polygon", { points: points.join(" "), class: name });
	put(lines, [
		mine.map(([x1, y1], n) => s("line", { x1, y1, x2: theirs[n][0], y2: theirs[n][1] })), outline(mine, "both"), outline(theirs, "both"),
		differences.flatMap(({ query, target }) => [query, target].map((box, n) => outline(cornersOf(box).map(places[n]), "differs"))),
	]);
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
	const agreeing = explain?.agreeing != null && [["Agreeing pixels", percent(explain.agreeing / 100)], ["Areas that differ", explain.differences.length || "none"]];
	return [
		rows(...(agreeing || matched), ["Compared by", basisOf(result)], ["Probability", probability == null ? "not computed" : percent(probability)]),
		rows(...scores.map(([name, value]) => [STAGES[name] || name, value.toFixed(3)])),
		rows(...metadata(payload)),
		div("last", judged, div("buttons", act("More like this", () => like(id, 1)),
			act("Less like this", () => like(id, -1)), act("Search with it", () => { location.hash = idLink(id); }))),
	];
}
