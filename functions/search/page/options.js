// Options and filters, built from the metadata keys that the service declares.

import { call } from "./api.js";
import { div, h, put } from "./dom.js";
import { RERANKS } from "./state.js";

const BOUNDS = { gte: "from", lte: "to" };

/** `onChange` gets the changed part of the state. */
export function options(config, onChange) {
	const declared = Object.entries(config.keys);
	const groups = declared.filter(([, kind]) => kind === "keyword" || kind === "integer");
	const filters = div("options");
	const element = h("form", { class: "options", onchange: changed },
		groups.length > 0 && h("label", { class: "line" }, "One result per", h("select", { name: "group_by" },
			h("option", { value: "" }, "picture"), groups.map(([key]) => h("option", {}, key)))),
		h("label", { class: "line" }, "Diverse results", h("input", { type: "checkbox", name: "varied", role: "switch" })),
		h("fieldset", { class: "segments" }, h("legend", {}, "Verification"), Object.entries(RERANKS).map(([value, label]) =>
			h("label", {}, h("input", { type: "radio", name: "rerank", value }), h("span", {}, label)))),
		filters);
	const { group_by, varied, rerank } = element.elements;
	const inputs = () => [...filters.querySelectorAll("input")];
	let shown;

	call("v1/facets").catch(() => ({ facets: [] })).then(({ facets }) => {
		put(filters, declared.map(([key, kind]) => {
			const values = facets.find((each) => each.key === key)?.values ?? [];
			return (values[0] || kind !== "keyword") && h("fieldset", {}, h("legend", {}, key), values[0] ? counted(key, values) : range(key, kind));
		}));
		if (shown) show(shown);
	});

	function changed() {
		const filter = {};
		for (const { dataset, type, checked, value } of inputs()) {
			const wanted = filter[dataset.key] ?? {};
			if (type === "checkbox" && checked) (wanted.any ??= []).push(JSON.parse(value));
			else if (type === "number" && value) wanted[dataset.bound] = Number(value);
			else if (type === "date" && value) wanted[dataset.bound] = `${value}T${dataset.bound === "gte" ? "00:00:00" : "23:59:59"}Z`;
			if (Object.keys(wanted).length) filter[dataset.key] = wanted;
		}
		onChange({ filter, group_by: group_by?.value ?? "", varied: varied.checked, rerank: rerank.value });
	}

	function show(state) {
		shown = state;
		if (group_by) group_by.value = state.group_by;
		varied.checked = state.varied;
		rerank.value = state.rerank;
		for (const input of inputs()) {
			const wanted = state.filter[input.dataset.key] ?? {};
			if (input.type === "checkbox") input.checked = Boolean(wanted.any?.includes(JSON.parse(input.value)));
			else input.value = String(wanted[input.dataset.bound] ?? "").slice(0, input.type === "date" ? 10 : 99);
		}
	}

	return { element, show };
}

const counted = (key, values) => div("values", values.map(({ value, count }) => h("label", {},
	h("input", { type: "checkbox", "data-key": key, value: JSON.stringify(value) }), h("span", {}, value), h("small", {}, count))));

const range = (key, kind) => div("range", Object.entries(BOUNDS).map(([bound, label]) => h("label", {}, label, h("input", {
	type: kind === "datetime" ? "date" : "number", step: "any", "data-key": key, "data-bound": bound, "aria-label": `${key} ${label}`,
}))));
