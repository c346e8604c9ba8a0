// Pictures of indexed images: fetched with the key, near the screen only, a few at a time.

import { call, imagePath } from "./api.js";
import { h } from "./dom.js";

const AT_ONCE = 6;
const SIZES = [160, 320, 640, 1024]; // of the longer side
const waiting = [];
let running = 0;

const near = new IntersectionObserver((entries) => {
	for (const { isIntersecting, target } of entries) {
		if (!isIntersecting) continue;
		near.unobserve(target);
		waiting.push(target);
	}
	next();
}, { rootMargin: "300px" });

/** An <img> that fills itself. `width`: about how wide it is shown, in CSS pixels. */
export function thumbnail(id, alt, width) {
	const wanted = width * Math.min(devicePixelRatio, 2);
	const image = h("img", { alt, draggable: "false", "data-id": id, "data-size": SIZES.find((size) => size >= wanted) ?? 1024 });
	near.observe(image);
	return image;
}

function next() {
	while (running < AT_ONCE && waiting.length) {
		const image = waiting.shift();
		if (!image.isConnected) continue;
		running++;
		load(image).catch(() => image.classList.add("missing")).finally(() => { running--; next(); });
	}
}

async function load(image) {
	const { id, size } = image.dataset;
	const url = URL.createObjectURL(await call(`${imagePath(id)}/thumbnail?size=${size}`, { as: "blob", quiet: true }));
	image.src = url;
	await image.decode().finally(() => URL.revokeObjectURL(url)); // the browser's cache has it
	image.classList.add("loaded");
}
