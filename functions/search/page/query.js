// What is searched with: a picture with a box on it, words, or examples; and how.

import { $, announce, button, h, small } from "./dom.js";
import { options } from "./options.js";
import { stage } from "./stage.js";
import { thumbnail } from "./thumbnails.js";

/** `go(change)` changes the state; `take(file)` is told of a new picture; `find()` finds things. */
export function queryPanel(config, { go, take, find }) {
	const board = stage((box) => go({ box }));
	const examples = h("div", { class: "examples" });
	const part = button("Mark a part", board.begin);
	const things = button("Find things", find);
	const whole = button("Whole picture", () => go({ box: null }));
	const panel = options(config, go);
	const file = (label, extra) => h("label", { class: "button" }, label, h("input", {
		type: "file", accept: "image/*", class: "unseen", ...extra,
		onchange: ({ target }) => { take(target.files[0]); target.value = ""; },
	}));
	const text = h("input", { type: "search", "aria-label": "Search with words", placeholder: "or say what it is", required: true });
	const ask = h("div", { class: "buttons" }, file("Choose a picture"),
		matchMedia("(pointer: coarse)").matches && file("Take a photo", { capture: "environment" }),
		config.text && h("form", { role: "search", class: "buttons", onsubmit: (event) => {
			event.preventDefault();
			go({ source: { text: text.value }, box: null, negative: [] });
		} }, text, h("button", {}, "Search")));
	const tools = h("div", { class: "buttons" }, part, things, whole);
	const details = h("details", { open: matchMedia("(min-width: 60rem)").matches }, h("summary", {}, "Filters and options"), panel.element);
	const element = h("section", { class: "query", "aria-label": "Query" }, h("div", { class: "in-view" }, board.element, examples), tools, details);
	let shown;

	/** `open()` makes the <img> of the source, or null where there is no picture to show. */
	function show(state, open) {
		const { source, negative, box } = state;
		const image = shown === JSON.stringify(source) ? $("img", board.element) : open();
		shown = JSON.stringify(source);
		board.show(image, box);
		part.hidden = things.hidden = Boolean(box) || !image;
		whole.hidden = !box;
		tools.append(ask);
		panel.show(state);
		examples.replaceChildren(
			...(source.text ? [h("p", { class: "words" }, `“${source.text}”`)] : []),
			...(image || source.text || source.positive ? [] : [small("The picture is not in this link, only what the search needs of it.")]),
			...listed("More like", source.positive || []), ...listed("Less like", negative),
			...(negative.length && !source.positive ? [small("Left out. Add one to be more like, and these count against it.")] : []));

		function listed(label, ids) {
			const chip = (id) => h("li", {}, thumbnail(id, "", 72), button("×", () => {
				const rest = (list) => list.filter((each) => each !== id);
				const positive = source.positive && rest(source.positive);
				go({ source: positive ? (positive.length ? { positive } : null) : source, negative: rest(negative) });
			}, { "aria-label": `${label}: take it away` }));
			return ids.length ? [h("h2", {}, label), h("ul", {}, ids.map(chip))] : [];
		}
	}

	function offer(boxes) {
		board.offer(boxes);
		announce(`${boxes.length} things found; each is a button on the picture`);
	}

	return { element, ask, show, offer };
}
