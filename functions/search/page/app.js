// The entry point: shows the view that the address names, and connects the parts of the page.

import { call, keys, onKeyNeeded } from "./api.js";
import { $, h, put, small } from "./dom.js";
import { duplicatesView } from "./duplicates.js";
import { openProof } from "./proof.js";
import { searchView } from "./search.js";
import { link, read } from "./state.js";
import { uploadView } from "./upload.js";
import { trouble } from "./words.js";

const main = $("main");
let config, views, shown = "search";

function show() {
	if (location.hash === "#main") return; // the link that skips
	const state = read(location.hash), view = views[state.view];
	$("#proof").close();
	if (main.firstChild !== view.element) {
		put(main, view.element);
		footer(null);
	}
	for (const each of document.querySelectorAll("[data-view]")) {
		each.ariaCurrent = each.dataset.view === state.view ? "page" : null;
	}
	view.show(state);
	if (shown !== state.view) $("h1:not([hidden] *)", view.element).focus();
	shown = state.view;
}

function set(state, instead) {
	history[instead ? "replaceState" : "pushState"](null, "", state.source ? link(state) : "#");
	show();
}

function footer(answer) {
	const { cold_start: cold, ...stages } = answer?.took_ms ?? {};
	const said = Object.entries(stages).map(([name, ms]) => `${name} ${ms.toFixed(ms < 10 ? 1 : 0)} ms`);
	put($("footer"), [[config.model_name, ...said, cold && "cold start"].map((text) => text && h("span", {}, text)), h("a", { href: "docs" }, "API")]);
}

async function begin() {
	put(main, small("Loading …"));
	try {
		config = await call("v1/config");
	} catch (problem) {
		return put(main, trouble(problem, begin));
	}
	views = { search: searchView(config, { set, openProof, footer }), upload: uploadView(config), duplicates: duplicatesView() };
	addEventListener("popstate", show);
	show();
}

function take(files) {
	if (!files.length || !views) return;
	if (shown === "upload") return views.upload.take(files);
	if (shown !== "search") set(read(""));
	views.search.take(files[0]);
}

for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, (event) => {
	if (!event.dataTransfer?.types.includes("Files")) return;
	event.preventDefault();
	// leaving one element for another is not leaving
	$("#drop-hint").hidden = kind === "drop" || (kind === "dragleave" && !event.relatedTarget);
	if (kind === "drop") take([...event.dataTransfer.files]);
});
addEventListener("submit", (event) => event.target.method !== "dialog" && event.preventDefault());
addEventListener("paste", ({ clipboardData }) => take([...clipboardData.files]));

// --- the key ---

const dialog = $("#key-dialog"), form = $("form", dialog), open = $("#key-button");

/** Resolves to whether a new key was entered. */
function ask(kind, why) {
	$("#key-title").textContent = kind === "write" ? "Write key" : "API key";
	$("#key-why").textContent = why;
	form.reset();
	dialog.returnValue = "";
	dialog.showModal();
	return new Promise((resolve) => dialog.addEventListener("close", () => {
		const key = form.elements.key.value.trim(), saved = dialog.returnValue === "save" && key;
		if (saved) keys.set(kind, key);
		if (dialog.returnValue === "forget") keys.forget();
		open.hidden = !keys.get("search");
		resolve(Boolean(saved));
	}, { once: true }));
}

onKeyNeeded((kind, refused) => ask(kind, refused
	? "This key was refused. Uploads, deletions and duplicate decisions need a write key."
	: "Whoever runs this service can give you one."));
open.hidden = !keys.get("search");
open.addEventListener("click", async () => (await ask("search", "The key that searches are sent with.")) && location.reload());

begin();
