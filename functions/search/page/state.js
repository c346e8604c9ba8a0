// The state of a search lives in the address, so that links and Back reproduce it.

const SOURCES = ["picture", "id", "key", "text", "query_id", "positive"];
const LISTS = ["positive", "negative"];
export const RERANKS = { precise: "Thorough", fast: "Quick", none: "Off" };

/** "#id=…&box=…" → state; invalid values are dropped.  */
export function read(hash) {
	const view = ["upload", "duplicates"].find((each) => hash === `#${each}`) || "search";
	const given = Object.fromEntries(new URLSearchParams(hash.slice(1)));
	for (const name of LISTS) given[name] = given[name]?.split(",") ?? [];
	const name = SOURCES.find((each) => given[each]?.length);
	const box = (given.box || "").split(",").map(Number);
	return {
		view,
		source: name ? { [name]: given[name] } : null,
		negative: given.negative,
		box: box.length === 4 && box.every((side) => side >= 0 && side <= 1) ? box : null,
		filter: filterOf(given.filter),
		group_by: given.group_by || "",
		varied: Boolean(given.diversity),
		rerank: given.rerank in RERANKS ? given.rerank : "precise",
	};
}

export function link(state) {
	const { source, negative, box } = state;
	const said = new URLSearchParams();
	for (const [name, value] of Object.entries({ ...source, negative, box: box || "", ...choices(state) })) {
		if (value !== "" && value.length !== 0) said.set(name, name === "filter" ? JSON.stringify(value) : value);
	}
	return `#${said}`;
}

export const idLink = (id) => `#id=${id}`;

/** As options of the API, without its defaults. */
export function choices({ filter, group_by, varied, rerank }) {
	const must = Object.entries(filter).map(([key, wanted]) => ({ key, [wanted.any ? "match" : "range"]: wanted }));
	return {
		...(must.length && { filter: { must } }),
		...(group_by && { group_by }),
		...(varied && { diversity: 0.5 }),
		...(rerank !== "precise" && { rerank }),
	};
}

function filterOf(text) {
	try {
		return Object.fromEntries(JSON.parse(text).must.map(({ key, match, range }) => [key, match || range]));
	} catch {
		return {};
	}
}
