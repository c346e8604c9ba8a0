// The query picture with a box on it: left, top, right, bottom, as shares of width and height.

import { $, button, h, place, put } from "./dom.js";

const SMALLEST = 0.04, STEP = 0.02;
const CORNERS = [[0, 1], [2, 1], [0, 3], [2, 3]]; // the sides that meet in each
const KEYS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

const clamp = (value, low = 0, high = 1) => Math.min(high, Math.max(low, value));
const around = ([x, y], [u, v]) => [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];

function moved([left, top, right, bottom], dx, dy) {
	const x = clamp(dx, -left, 1 - right), y = clamp(dy, -top, 1 - bottom);
	return [left + x, top + y, right + x, bottom + y];
}

/** `onBox(box or null)` is called once a box is finished. */
export function stage(onBox) {
	const frame = h("button", {
		type: "button", class: "box", hidden: true, onkeydown: onKey,
		"aria-label": "Searched area. Arrow keys move it, with Shift they resize it, Escape removes it.",
	}, CORNERS.map((_, n) => h("i", { "data-corner": n })));
	const dots = h("div");
	const element = h("div", { class: "stage", onpointerdown: onDown, onpointermove: onMove, onpointerup: onUp, onpointercancel: onUp }, frame, dots);
	const pointers = new Map();
	let box = null, drag = null, timer;

	function draw(wanted) {
		box = wanted;
		frame.hidden = !box;
		dots.hidden = Boolean(box);
		if (box) place(frame, { left: box[0], top: box[1], width: box[2] - box[0], height: box[3] - box[1] });
	}

	function finish(wanted) {
		clearTimeout(timer);
		draw(wanted);
		onBox(wanted && wanted.map((side) => Math.round(side * 1e4) / 1e4));
	}

	function at({ clientX, clientY }) {
		const edge = element.getBoundingClientRect();
		return [clamp((clientX - edge.left) / edge.width), clamp((clientY - edge.top) / edge.height)];
	}

	function onDown(event) {
		if (event.button || event.target.closest(".dot")) return;
		element.setPointerCapture(event.pointerId);
		const from = at(event), corner = CORNERS[event.target.dataset.corner];
		pointers.set(event.pointerId, from);
		if (drag) drag.how = "pinch";
		else if (corner) drag = { how: "draw", from: [box[2 - corner[0]], box[4 - corner[1]]], before: box };
		else drag = { how: event.target === frame ? "move" : "draw", from, before: box };
	}

	function onMove(event) {
		if (!pointers.has(event.pointerId)) return;
		const to = at(event), { how, from, before } = drag;
		pointers.set(event.pointerId, to);
		if (how === "pinch") draw(around(...[...pointers.values()].slice(-2)));
		else draw(how === "draw" ? around(from, to) : moved(before, to[0] - from[0], to[1] - from[1]));
	}

	function onUp(event) {
		if (!pointers.delete(event.pointerId) || pointers.size) return;
		const { before } = drag;
		drag = null;
		if (event.type === "pointerup" && box !== before && box[2] - box[0] >= SMALLEST && box[3] - box[1] >= SMALLEST) finish(box);
		else draw(before);
	}

	function onKey(event) {
		if (event.key === "Escape" || event.key === "Delete") return finish(null);
		const step = KEYS[event.key];
		if (!step) return;
		event.preventDefault();
		draw(event.shiftKey
			? [box[0], box[1], clamp(box[2] + step[0], box[0] + SMALLEST), clamp(box[3] + step[1], box[1] + SMALLEST)]
			: moved(box, ...step));
		clearTimeout(timer);
		timer = setTimeout(() => finish(box), 500);
	}

	return {
		element,
		show(image, wanted) {
			if ($("img", element) !== image) {
				$("img", element)?.remove();
				if (image) element.prepend(image);
				put(dots);
			}
			element.hidden = !image;
			if (!drag) draw(wanted);
		},
		offer(boxes) {
			put(dots, boxes.map((each, n) => {
				const dot = button("", () => finish(each), { class: "dot", "aria-label": `Search object ${n + 1} of ${boxes.length}` });
				place(dot, { left: (each[0] + each[2]) / 2, top: (each[1] + each[3]) / 2 });
				return dot;
			}));
		},
		/** For those who cannot drag. */
		begin() {
			finish([0.25, 0.25, 0.75, 0.75]);
			frame.focus();
		},
	};
}
