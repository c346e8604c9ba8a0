// The query panel: source, box, examples and options.

import { $, button, div, h, put, small } from "./dom.js";
import { options } from "./options.js";
import { stage } from "./stage.js";
import { thumbnail } from "./thumbnails.js";

export function queryPanel(config, { go, take, find }) {
	const board = stage((box) => go({ box }));
	const examples = div("examples");
	const part = button("Select an area", board.begin);
	const things = button("Find objects", find);
	const whole = button("Whole picture", () => go({ box: null }));
	const panel = options(config, go);
	const file = (label, extra) => h("label", { class: "button" }, label, h("input", {
		type: "file", accept: "image/*", class: "unseen", ...extra,
		onchange: ({ target }) => { take(target.files[0]); target.value = ""; },
	}));
	const text = h("input", { type: "search", "aria-label": "Search with words", placeholder: "or describe it", required: true });
	const ask = div("buttons", file("Choose a picture"),
		matchMedia("(pointer: coarse)").matches && file("Take a photo", { capture: "environment" }),
		config.text && h("form", { role: "search", class: "buttons", onsubmit: () => go({ source: { text: text.value }, box: null, negative: [] }) }, text, h("button", {}, "Search")));
	const tools = div("buttons", part, things, whole);
	const details = h("details", { open: matchMedia("(width >= 60rem)").matches }, h("summary", {}, "Filters and options"), panel.element);
	const element = h("section", { class: "query", "aria-label": "Query" }, h("div", { class: "in-view" }, board.element, examples), tools, details);
	let shown;

	/** `open()` → the source's <img>, or null. */
	function show(state, open) {
		const { source, negative, box } = state;
		const image = shown === JSON.stringify(source) ? $("img", board.element) : open();
		shown = JSON.stringify(source);
		board.show(image, box);
		part.hidden = things.hidden = Boolean(box) || !image;
		whole.hidden = !box;
		tools.append(ask);
		panel.show(state);
		put(examples, [
			source.text && h("p", {}, `“${source.text}”`),
			!(image || source.text || source.positive) && small("The query picture is not part of this link."),
			listed("More like", source.positive || []), listed("Less like", negative),
			negative.length > 0 && !source.positive && small("These are left out. Add an example to search for, and they count against it."),
		]);

		function listed(label, ids) {
			const chip = (id) => h("li", {}, thumbnail(id, "", 72), button("×", () => {
				const rest = (list) => list.filter((each) => each !== id);
				const positive = source.positive && rest(source.positive);
				go({ source: positive ? (positive.length ? { positive } : null) : source, negative: rest(negative) });
			}, { "aria-label": `${label}: remove` }));
			return ids.length > 0 && [h("h2", {}, label), h("ul", {}, ids.map(chip))];
		}
	}

	return { element, ask, show, offer: board.offer };
}
