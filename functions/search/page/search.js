// The search view: the query on one side, a grid of results that loads as it is scrolled on the other.

import { call, Problem } from "./api.js";
import { $, announce, button, div, h, nameOf, percent, put, small, showStatus } from "./dom.js";
import { base64, prepare } from "./picture.js";
import { queryPanel } from "./query.js";
import { choices, idLink, link } from "./state.js";
import { thumbnail } from "./thumbnails.js";
import { editsOf, metadata, notice, sentence, trouble, verdictOf } from "./words.js";

const PAGE = 24, MAX_EXAMPLES = 20, SLOW_MS = 3000;
const MAX_LINK = 30_000; // a query_id fits

/** `set(state)` changes the address. */
export function searchView(config, { set, openProof, footer }) {
	const pictures = new Map(); // what was chosen, by its name in the address
	const proven = new Map(); // results of this query whose pixels were compared, by id
	let state, asked, searchedView, token, results = [], next = null, running;

	const go = (change) => set({ ...state, ...change });
	const query = queryPanel(config, { go, take, find });
	const count = h("h1", { tabindex: "-1" });
	const copy = button("Copy link", copyLink, { class: "quiet" });
	const said = h("div");
	const grid = h("ol", { class: "grid" });
	const below = div("below");
	const found = h("section", { class: "answer", "aria-label": "Results" }, div("head", count, copy), said, grid, below);
	const layout = div("layout", query.element, found);
	const start = h("section");
	const end = new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && next !== null && !running && load(next), { rootMargin: "500px" });

	function show(wanted) {
		state = wanted;
		start.hidden = Boolean(state.source);
		layout.hidden = !state.source;
		if (!state.source) { asked = null; return welcome(); }
		query.show(state, pictureOf);
		if (asked !== link(state)) search();
	}

	async function welcome() {
		running?.abort();
		const strip = h("ul", { class: "grid strip" });
		put(start, [div("hero", h("h1", { tabindex: "-1" }, "What does it look like?"),
			h("p", {}, "Drop a picture anywhere, paste one, or choose one."), query.ask), strip]);
		try {
			const { images } = await call(`v1/images?state=live&limit=${PAGE}`);
			put(strip, images.map(({ id, key, payload }) => shaped(payload,
				h("a", { class: "picture", href: idLink(id), "aria-label": `Search with ${nameOf(key)}` }, thumbnail(id, "", 240)))));
			strip.before(images.length ? h("h2", {}, "Or start with one of these") : empty());
		} catch (problem) {
			strip.after(trouble(problem, welcome));
		}
	}

	function pictureOf() {
		const { picture, id } = state.source, mine = pictures.get(picture);
		if (mine) return h("img", { src: mine.url, alt: "Your picture", draggable: "false", width: mine.width, height: mine.height });
		return id ? thumbnail(id, "The query picture", 512) : null;
	}

	/** The query's picture as POST /v1/compare takes it; null where there is none. */
	async function comparable() {
		const { picture, id } = state.source, mine = pictures.get(picture), { box } = state;
		if (!mine && !id) return null;
		return { ...(mine ? { image: await base64(mine.blob) } : { id }), ...(box && { box }) };
	}

	async function take(file) {
		try {
			const picture = Date.now().toString(36);
			pictures.set(picture, await prepare(file, config.max_query_bytes));
			go({ source: { picture }, box: null, negative: [] });
		} catch (error) {
			(state.source ? said : start).prepend(notice("This picture cannot be read", error.message));
		}
	}

	/** No picture is sent or embedded twice: its query_id is kept, and in the browser's history. */
	function ask(extra, signal) {
		const { source, box, negative } = state, mine = pictures.get(source.picture);
		const kept = !extra.detect && source.picture && (token ?? history.state?.token);
		const fields = { ...extra, ...choices(state), ...(box && !kept && { box }) };
		if (negative.length) fields[source.positive ? "negative" : "exclude"] = negative;
		if (kept || !source.picture) return call("v1/search", { json: { ...(kept ? { query_id: kept } : source), ...fields }, signal });
		if (!mine) throw new Problem(-1);
		const form = new FormData();
		form.append("image", mine.blob);
		for (const [name, value] of Object.entries(fields)) form.append(name, typeof value === "object" ? JSON.stringify(value) : value);
		return call("v1/search", { form, signal });
	}

	function search() {
		const view = JSON.stringify([state.source, state.box]);
		if (view !== searchedView) {
			token = undefined;
			proven.clear();
		}
		searchedView = view;
		asked = link(state);
		next = null;
		count.textContent = "Searching …";
		copy.hidden = true;
		put(said);
		put(below);
		load(0);
	}

	async function load(offset) {
		running?.abort();
		const mine = (running = new AbortController());
		const slow = setTimeout(showStatus, SLOW_MS, below, "Still searching. The first search after a pause takes longer.");
		found.setAttribute("aria-busy", "true");
		try {
			const { key } = state.source;
			const status = key && (await call(`v1/status?key=${encodeURIComponent(key)}`));
			if (mine.signal.aborted) return;
			if (status?.state === "live" && found.isConnected) return set({ ...state, source: { id: status.id } }, true);
			const answer = await ask({ limit: PAGE, offset, explain: true }, mine.signal);
			if (mine === running) present(answer, offset);
		} catch (problem) {
			if (mine === running) failed(problem, offset);
		} finally {
			clearTimeout(slow);
			if (mine === running) { running = null; found.removeAttribute("aria-busy"); }
		}
	}

	/** A query_id has no pixels: what they said of this query before still holds. */
	function recalled(result) {
		if (result.rests_on === "pixels") proven.set(result.id, result);
		const known = result.rests_on === "index" && proven.get(result.id);
		if (!known) return result;
		const { verdict, probability, rests_on, edits, explain } = known;
		return { ...result, verdict, probability, rests_on, edits, explain: { ...explain, scores: result.explain.scores } };
	}

	/** The page compared the pixels of a result. */
	function settled(result, n) {
		if (results[n] !== result) return; // there was another search
		proven.set(result.id, result);
		$(".badge", grid.children[n])?.replaceWith(badge(result));
	}

	function present(answer, offset) {
		const { query_id, request_id, next_offset, skipped } = answer, page = answer.results.map(recalled);
		token = query_id;
		if (state.source.picture) history.replaceState({ token }, "");
		if (!offset) {
			results = [];
			put(grid);
			scrollTo({ top: 0 });
		}
		next = next_offset;
		put(grid, page.map(card), true);
		results.push(...page.map((result) => ({ ...result, request_id, query_id })));
		count.textContent = results.length ? `${results.length}${next === null ? "" : "+"} results` : "Nothing found";
		announce(`${count.textContent}${page[0] ? `. ${nameOf(page[0].key)}: ${sentence(page[0])}` : ""}`);
		copy.hidden = false;
		put(said, skipped.length > 0 && small(`Skipped because of the deadline: ${skipped.join(", ")}.`));
		put(below, !results.length ? nothing() : next === null ? small("End of results.") : button("More results", () => load(next)));
		end.disconnect();
		if (next !== null) end.observe(below);
		footer(answer);
	}

	function nothing() {
		const wide = { filter: {}, group_by: "", box: null };
		return link({ ...state, ...wide }) === asked ? empty()
			: notice("No matches", "Remove the box, the filters or the grouping.", button("Remove all", () => go(wide), { class: "main" }));
	}

	function failed(problem, offset) {
		const shown = problem.status === -1
			? notice("This link needs its picture", "The service stores no query pictures. Choose it again.")
			: trouble(problem, () => load(offset));
		if (offset) return put(below, shown);
		count.textContent = "No answer";
		results = [];
		put(grid);
		put(below);
		put(said, shown);
		footer(null);
	}

	function card(result, n) {
		n += results.length;
		const { id, key, payload, score, probability } = result, name = nameOf(key);
		const choice = (text, does, sign) => button(text, () => like(id, sign), { "aria-label": `${does} like ${name}` });
		return shaped(payload,
			h("div", { class: "picture" },
				h("button", { type: "button", class: "open", "aria-label": `${name}: ${sentence(result)}`, onclick: () => openProof(results, n, { picture: pictureOf, source: comparable, settled }, like) }, thumbnail(id, "", 320)),
				h("span", { class: "score" }, score.toFixed(3), probability != null && ` · ${percent(probability)}`),
				h("span", { class: "choose" }, choice("+", "More", 1), choice("−", "Less", -1))),
			badge(result),
			h("p", { class: "small" }, [name, ...metadata(payload).map(([, value]) => value)].join(" · ")));
	}

	/** sign 1: more like it; −1: less like it. */
	function like(id, sign) {
		const { id: mine, positive = mine && !state.box ? [mine] : [] } = state.source;
		const put = (list, wanted) => [...list.filter((each) => each !== id), ...(wanted ? [id] : [])].slice(-MAX_EXAMPLES);
		const liked = put(positive, sign > 0), negative = put(state.negative, sign < 0);
		go(liked.length ? { source: { positive: liked }, box: null, negative } : { negative });
	}

	async function find() {
		const mine = searchedView;
		try {
			const { regions } = await ask({ detect: true, limit: 1 });
			if (mine !== searchedView) return;
			query.offer(regions.map(({ box }) => box));
			showStatus(said, `${regions.length} objects found. Select a dot on the picture to search for one.`);
		} catch (problem) {
			if (mine === searchedView) put(said, trouble(problem, find));
		}
	}

	async function copyLink() {
		const own = state.source.picture;
		const hash = link(own ? { ...state, source: { query_id: token }, box: null } : state);
		let text = own ? "Copied, without the picture." : "Copied.";
		if (hash.length > MAX_LINK || (own && !token)) text = "This search does not fit into a link.";
		else await navigator.clipboard.writeText(new URL(hash, location)).catch(() => (text = "The browser did not allow it."));
		showStatus(said, text);
	}

	return { element: h("div", {}, start, layout), show, take };
}

function badge(result) {
	const [label, sure] = verdictOf(result);
	return h("p", { class: `badge ${result.verdict}` }, h("b", {}, label), ` · ${editsOf(result) || sure}`);
}

const empty = () => notice("Nothing else is indexed yet", "Upload some pictures. They can be found seconds later.",
	h("a", { class: "button main", href: "#upload" }, "Upload pictures"));

/** Rows fill the width, and pictures keep their shapes where that is sensible. */
function shaped({ width = 1, height = 1 } = {}, ...children) {
	const cell = h("li", { class: "card" }, ...children);
	cell.style.setProperty("--ratio", Math.min(1.9, Math.max(0.7, width / height)));
	return cell;
}
