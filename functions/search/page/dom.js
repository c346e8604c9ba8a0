// Small words for building elements, and for telling people about them.

export const $ = (selector, root = document) => root.querySelector(selector);

/** h("a", {href: "#", onclick: go}, "text", child): an element. Nothing is parsed as HTML. */
export const h = (tag, ...rest) => fill(document.createElement(tag), ...rest);
export const s = (tag, ...rest) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), ...rest);

function fill(element, attributes = {}, ...children) {
	for (const [name, value] of Object.entries(attributes)) {
		if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
		else if (value != null && value !== false) element.setAttribute(name, value === true ? "" : value);
	}
	element.append(...children.flat().filter((child) => child != null && child !== false));
	return element;
}

export const button = (label, onclick, extra) => h("button", { type: "button", onclick, ...extra }, label);
export const small = (text) => h("p", { class: "small" }, text);

/** Said to those who listen to the page. */
export const announce = (text) => ($("#announcer").textContent = text);

/** In per cent of the parent. By CSSOM: a style attribute would need a weaker policy. */
export function place(element, sides) {
	for (const [side, share] of Object.entries(sides)) element.style[side] = `${share * 100}%`;
}

export const percent = (share) => `${Math.round(share * 100)}\u00a0%`;

/** "products/mug.jpg" → "mug.jpg" */
export const nameOf = (key) => key.slice(key.lastIndexOf("/") + 1);

/** Files dropped on an element; while they hover over it, `hint` has the class "over". */
export function onDrop(element, hint, take) {
	const over = (is) => (event) => {
		if (!event.dataTransfer?.types.includes("Files")) return;
		event.preventDefault();
		event.stopPropagation();
		hint.classList.toggle("over", is);
		if (event.type === "drop") take([...event.dataTransfer.files]);
	};
	element.addEventListener("dragover", over(true));
	element.addEventListener("dragleave", over(false));
	element.addEventListener("drop", over(false));
}
