// Verdicts in words, and notices for requests that fail.

import { announce, button, div, h } from "./dom.js";

const LEVELS = {
	exact: "Same file", copy: "Copy", edited: "Edited", variant: "Variant",
	same_item: "Same item", similar: "Similar", none: "Different",
};
const SURE = [[0.97, "almost certain"], [0.85, "very likely"], [0.65, "likely"], [0, "perhaps"]];

export const verdictOf = ({ verdict, probability }) =>
	verdict ? [LEVELS[verdict], verdict === "exact" ? "byte for byte" : SURE.find(([least]) => probability >= least)[1]] : ["Neighbour", "not verified"];

export const sentence = (result) => verdictOf(result).join(", ");

const EDITS = { part_of: "part of a larger picture" };
const BASES = { bytes: "equal files", pixels: "pixels", index: "stored features" };

/** “cropped, mirrored”; empty where nothing is known to be edited. */
export const editsOf = ({ edits = [] }) => edits.map((name) => EDITS[name] ?? name).join(", ");
export const basisOf = ({ rests_on }) => BASES[rests_on] ?? "vectors";

export const metadata = ({ width, height, size, content_type, ...declared } = {}) => Object.entries(declared);

export function notice(title, text, ...actions) {
	announce(`${title}. ${text}`);
	return div("notice", h("h2", {}, title), h("p", {}, text), div("buttons", ...actions));
}

function reason({ status, kind, message, requestId }) {
	if (!status && !navigator.onLine) return ["You are offline", "The search continues once you are online."];
	if (!status) return ["The service is not responding", "Check that it is running and reachable, then try again."];
	if (status === 401 || status === 403) return ["An API key is needed", "Whoever runs this service can give you one."];
	if (status === 404) return ["No longer available", `Search with another picture. (${message})`];
	if (status === 409) return ["The model has changed", "Choose the picture again."];
	if (status === 413) return ["The picture is too large", "Choose a smaller one, or upload it and search with the uploaded picture."];
	if (status === 415 || kind === "not-an-image") return ["This picture cannot be read", "Save it as JPEG, PNG or WebP, and try again."];
	if (kind === "no-detail") return ["Nothing to search for", "The picture is a single colour. Select another area, or choose another picture."];
	if (status === 429) return ["Too many requests", "This API key has reached its limit."];
	if (status === 503) return ["Temporarily unavailable", "The index or the bucket is not answering."];
	if (status >= 500) return ["Something went wrong", `Try again, or give this request id to whoever runs the service: ${requestId}.`];
	return ["The request failed", message];
}

/** The notice for a Problem. Where waiting helps, it counts down and calls `again`. */
export function trouble(problem, again) {
	if (problem.status === undefined) throw problem; // a bug of this page
	let left = [429, 503].includes(problem.status) ? problem.retryAfter || 5 : Infinity;
	const stop = () => { clearInterval(timer); removeEventListener("online", go); };
	const go = () => { stop(); if (shown.isConnected) again(); };
	const retry = button("Try again", go, { class: "main" });
	const shown = notice(...reason(problem), retry);
	const tick = () => {
		retry.textContent = `Try now (automatically in ${left} s)`;
		if (left-- <= 0 && !document.hidden) go();
	};
	const timer = left < Infinity && setInterval(tick, 1000);
	if (timer) tick();
	if (!problem.status) addEventListener("online", go);
	return shown;
}
