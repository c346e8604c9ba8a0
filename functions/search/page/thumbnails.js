// Thumbnails of indexed images: fetched with the key, a few at a time, only near the visible area.

import { call, imagePath, queue } from "./api.js";
import { h } from "./dom.js";

const AT_ONCE = 6;
const SIZES = [160, 320, 640, 1024]; // of the longer side
const add = queue(AT_ONCE);
const near = new IntersectionObserver((entries) => {
	for (const { isIntersecting, target } of entries) {
		if (!isIntersecting) continue;
		near.unobserve(target);
		add(() => load(target).catch(() => target.classList.add("missing")));
	}
}, { rootMargin: "300px" });

/** An <img> that fills itself. `width`: about how wide it is shown, in CSS pixels. */
export function thumbnail(id, alt, width) {
	const wanted = width * Math.min(devicePixelRatio, 2);
	const image = h("img", { alt, draggable: "false", "data-id": id, "data-size": SIZES.find((size) => size >= wanted) ?? 1024 });
	near.observe(image);
	return image;
}

async function load(image) {
	if (!image.isConnected) return; // scrolled past, and away
	const { id, size } = image.dataset;
	const url = URL.createObjectURL(await call(`${imagePath(id)}/thumbnail?size=${size}`, { as: "blob", quiet: true }));
	image.src = url;
	await image.decode().finally(() => URL.revokeObjectURL(url)); // the browser's cache has it
	image.classList.add("loaded");
}
