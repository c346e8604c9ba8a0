// The public API. Addresses are relative to the page, so that it works behind a stage's path.

/** A failed request. `status` 0: there was no response. */
export class Problem extends Error {
	constructor(status, { detail, message, request_id, type = "" } = {}, retryAfter = 0) {
		super(detail || message || `HTTP ${status}`);
		Object.assign(this, { status, retryAfter, requestId: request_id, kind: type.split(":").pop() });
	}
}

const NAMES = { search: "likeness.key", write: "likeness.write-key" };
export const keys = {
	get: (kind) => localStorage.getItem(NAMES[kind]) || localStorage.getItem(NAMES.search),
	set: (kind, key) => localStorage.setItem(NAMES[kind], key),
	forget: () => Object.values(NAMES).forEach((name) => localStorage.removeItem(name)),
};

let askForKey, asking; // (kind, whether a key was refused) → whether a new one was entered
export const onKeyNeeded = (ask) => (askForKey = ask);

/** `kind`: "write" for what changes the index. `quiet`: asks for no key. Throws Problem. */
export async function call(path, options = {}) {
	const { method, json, form, kind = "search", quiet, signal, as = "json" } = options;
	const key = keys.get(kind);
	const headers = {
		...(key && (key.startsWith("eyJ") ? { authorization: key } : { "x-api-key": key })), // or a token
		...(json && { "content-type": "application/json" }),
		...(as === "blob" && { accept: "image/jpeg" }), // or API Gateway would send base64
	};
	const body = json ? JSON.stringify(json) : form;
	const response = await fetch(path, { method: method || (body ? "POST" : "GET"), headers, body, signal }).catch((error) => {
		throw error.name === "AbortError" ? error : new Problem(0);
	});
	if (response.ok) return response[as]();
	if ([401, 403].includes(response.status) && !quiet) {
		if (key === keys.get(kind)) asking ??= askForKey(kind, Boolean(key)).finally(() => (asking = null));
		if (key !== keys.get(kind) || (await asking)) return call(path, options);
	}
	const problem = await response.json().catch(() => ({}));
	throw new Problem(response.status, problem, Number(response.headers.get("retry-after")));
}

export const imagePath = (id) => `v1/images/${encodeURIComponent(id)}`;

export function queue(atOnce) {
	const waiting = [];
	let running = 0;
	return function add(...jobs) {
		waiting.push(...jobs);
		while (running < atOnce && waiting.length) {
			running++;
			waiting.shift()().finally(() => { running--; add(); });
		}
	};
}
