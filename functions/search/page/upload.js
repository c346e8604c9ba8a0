// Uploads files straight to the bucket, and follows each until it is searchable.

import { call, imagePath, Problem, queue } from "./api.js";
import { announce, button, div, h, percent, put } from "./dom.js";
import { idLink } from "./state.js";
import { thumbnail } from "./thumbnails.js";

const AT_ONCE = 3, GIVE_UP_MS = 600_000, MIB = 1 << 20;

export function uploadView({ keys, formats, max_upload_bytes: most }) {
	const add = queue(AT_ONCE);
	const list = h("ul", { class: "uploads" });
	const types = { float: "number", integer: "number", datetime: "date" };
	const about = h("form", { class: "options" }, Object.entries(keys).map(([name, kind]) =>
		h("label", { class: "line" }, name, h("input", { name, type: types[kind] || "text", step: "any", autocomplete: "off" }))));
	const zone = h("label", { class: "zone" }, h("b", {}, "Drop pictures here, or choose files"), `${formats.join(", ")}, up to ${most / MIB} MiB each`,
		h("input", { type: "file", multiple: true, accept: "image/*", class: "unseen", onchange: ({ target }) => { take([...target.files]); target.value = ""; } }));

	function take(files) {
		const metadata = Object.fromEntries([...new FormData(about)].filter(([, value]) => value));
		for (const file of files) {
			const row = line(file, metadata);
			list.prepend(row.element);
			add(row.send);
		}
	}

	function line(file, metadata) {
		const bar = h("progress", { value: 0, "aria-label": `Upload of ${file.name}` });
		const state = h("p", { class: "state" }, "waiting");
		const preview = div("preview");
		const actions = div("buttons");
		const element = h("li", {}, preview, div("what", h("b", {}, file.name), state, bar), actions);

		function say(text, kind = "", ...offered) {
			state.textContent = text;
			element.className = kind;
			bar.hidden = Boolean(kind);
			put(actions, offered);
			if (kind) announce(`${file.name}: ${text}`);
		}

		async function send() {
			try {
				if (file.size > most) throw new Problem(413, { detail: `too large: ${(file.size / MIB).toFixed(1)} MiB` });
				if (!file.type.startsWith("image/")) throw new Problem(415, { detail: "not a picture" });
				const json = { content_type: file.type, name: file.name.replace(/[/\\\u0000-\u001f]|\$\{filename\}/g, "_").slice(0, 200), metadata };
				const ticket = await call("v1/uploads", { json, kind: "write" });
				await post(ticket, file, (share) => { bar.value = share; say(`uploading, ${percent(share)}`); });
				bar.removeAttribute("value");
				say("indexing");
				const { state: now, detail, reason } = await indexed(ticket.key);
				if (now !== "live") return say(`rejected: ${detail || reason}`, "bad");
				preview.append(thumbnail(ticket.id, "", 64));
				say("searchable", "good", h("a", { class: "button", href: idLink(ticket.id) }, "Find similar"),
					remover(ticket.id, file.name, () => { say("deleted", "bad"); put(preview); }));
			} catch (problem) {
				const again = !(problem.status >= 400) || [401, 403, 429, 503].includes(problem.status);
				say(problem.status ? problem.message : "connection lost", "bad",
					again && button("Try again", () => { say("waiting"); add(send); }));
			}
		}

		return { element, send };
	}

	return {
		take, show() {},
		element: h("section", { class: "page" }, h("h1", { tabindex: "-1" }, "Upload"),
			zone,
			Object.keys(keys).length > 0 && h("details", {}, h("summary", {}, "Add metadata"), about), list),
	};
}

/** Polls the object's status until it is live or rejected. */
async function indexed(key) {
	const until = Date.now() + GIVE_UP_MS;
	for (let wait = 300; Date.now() < until; wait = Math.min(5000, wait * 1.5)) {
		await new Promise((resolve) => setTimeout(resolve, wait));
		const status = await call(`v1/status?key=${encodeURIComponent(key)}`).catch((problem) => {
			if ([0, 429, 503].includes(problem.status)) return {};
			throw problem;
		});
		if (["live", "rejected"].includes(status.state)) return status;
	}
	throw new Problem(503, { detail: "still not indexed" });
}

/** XMLHttpRequest, since fetch reports no upload progress. */
const post = ({ url, fields }, file, progress) => new Promise((resolve, reject) => {
	const form = new FormData();
	for (const [name, value] of Object.entries({ ...fields, file })) form.append(name, value);
	const request = new XMLHttpRequest();
	request.upload.onprogress = ({ loaded, total }) => progress(loaded / total);
	request.onload = () => (request.status < 300 ? resolve() : reject(new Problem(request.status, { detail: "the bucket refused the upload" })));
	request.onerror = () => reject(new Problem(0));
	request.open("POST", url);
	request.send(form);
});

/** A button that deletes when it is pressed twice. */
export function remover(id, name, done) {
	const ask = button("Delete", async () => {
		if (ask.textContent === "Delete") return (ask.textContent = "Really delete?");
		try {
			await call(imagePath(id), { method: "DELETE", kind: "write", as: "text" });
			announce(`${name} deleted`);
			done();
		} catch (problem) {
			ask.textContent = "Not deleted";
			ask.title = problem.message;
		}
	}, { class: "danger", onblur: () => (ask.textContent = "Delete") });
	return ask;
}
