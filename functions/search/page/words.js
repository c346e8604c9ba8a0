// What a result is to the query, and what to do when there is none.

import { announce, button, div, h } from "./dom.js";

const LEVELS = {
	exact: "Same file", copy: "Copy", edited: "Edited",
	same_item: "Same thing", similar: "Similar", none: "Different",
};
const SURE = [[0.97, "almost sure"], [0.85, "very likely"], [0.65, "likely"], [0, "perhaps"]];

export const verdictOf = ({ verdict, probability }) =>
	verdict ? [LEVELS[verdict], verdict === "exact" ? "byte for byte" : SURE.find(([least]) => probability >= least)[1]] : ["Near", "not checked"];

export const sentence = (result) => verdictOf(result).join(", ");

export const metadata = ({ width, height, size, content_type, ...declared } = {}) => Object.entries(declared);

export function notice(title, text, ...actions) {
	announce(`${title}. ${text}`);
	return div("notice", h("h2", {}, title), h("p", {}, text), div("buttons", ...actions));
}

function reason({ status, kind, message, requestId }) {
	if (!status && !navigator.onLine) return ["You are offline", "It goes on once there is a connection."];
	if (!status) return ["The service does not answer", "Is it running, and can it be reached? Then try again."];
	if (status === 401 || status === 403) return ["A key is needed", "Whoever runs this service can give you one."];
	if (status === 404) return ["No longer there", `Search with another picture. (${message})`];
	if (status === 409) return ["The model has changed", "Choose the picture again."];
	if (status === 413) return ["Too large", "Choose a smaller picture, or upload it and search with it there."];
	if (status === 415 || kind === "not-an-image") return ["Not a picture that can be read", "Save it as JPEG, PNG or WebP, and try that."];
	if (kind === "no-detail") return ["There is nothing to see in it", "It is of one colour. Mark another part, or choose another picture."];
	if (status === 429) return ["Too many searches at once", "One key has only so many."];
	if (status === 503) return ["Not ready at the moment", "The index or the bucket is not answering."];
	if (status >= 500) return ["Something broke", `Try again, or tell whoever runs the service this number: ${requestId}.`];
	return ["That did not work", message];
}

/** The notice for a Problem. Where waiting helps, it counts down to `again`. */
export function trouble(problem, again) {
	if (problem.status === undefined) throw problem; // a bug of this page
	let left = [429, 503].includes(problem.status) ? problem.retryAfter || 5 : Infinity;
	const stop = () => { clearInterval(timer); removeEventListener("online", go); };
	const go = () => { stop(); if (shown.isConnected) again(); };
	const retry = button("Try again", go, { class: "main" });
	const shown = notice(...reason(problem), retry);
	const tick = () => {
		retry.textContent = `Try now (by itself in ${left} s)`;
		if (left-- <= 0 && !document.hidden) go();
	};
	const timer = left < Infinity && setInterval(tick, 1000);
	if (timer) tick();
	if (!problem.status) addEventListener("online", go);
	return shown;
}
