// Building elements, and announcing changes to screen readers.

export const $ = (selector, root = document) => root.querySelector(selector);

/** h("a", {href: "#", onclick: go}, "text", child). Nothing is parsed as HTML. */
export const h = (tag, ...rest) => fill(document.createElement(tag), ...rest);
export const s = (tag, ...rest) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), ...rest);

function fill(element, attributes = {}, ...children) {
	for (const [name, value] of Object.entries(attributes)) {
		if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
		else if (value != null && value !== false) element.setAttribute(name, value === true ? "" : value);
	}
	return put(element, children, true);
}

/** Replaces an element's children, or appends to them if `more`. Null and false are skipped. */
export function put(element, children = [], more) {
	element[more ? "append" : "replaceChildren"](...[children].flat(2).filter((child) => child != null && child !== false));
	return element;
}

export const div = (name, ...children) => h("div", { class: name }, ...children);
export const button = (label, onclick, extra) => h("button", { type: "button", onclick, ...extra }, label);
export const small = (text) => h("p", { class: "small" }, text);

/** For screen readers; `showStatus` shows the text too. */
export const announce = (text) => ($("#announcer").textContent = text);
export function showStatus(place, text) {
	put(place, small(text));
	announce(text);
}

/** In shares of the parent. A style attribute would need a weaker policy. */
export function place(element, sides) {
	for (const [side, share] of Object.entries(sides)) element.style[side] = `${share * 100}%`;
}

export const percent = (share) => `${Math.round(share * 100)}\u00a0%`;

export const nameOf = (key) => key.slice(key.lastIndexOf("/") + 1);
