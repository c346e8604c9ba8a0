// Groups of duplicates, side by side, to keep, separate or delete.

import { call } from "./api.js";
import { announce, button, div, h, nameOf, put, small } from "./dom.js";
import { idLink } from "./state.js";
import { thumbnail } from "./thumbnails.js";
import { remover } from "./upload.js";
import { notice, sentence, trouble } from "./words.js";

/** Variants are for sale, each of them: nothing here asks to delete one. */
const RELATIONS = {
	duplicate: {
		name: "Duplicates", text: "The same picture more than once: equal files, copies and edits.", first: "Original", actions: true,
		none: ["No duplicates to review", "Every picture is different, or you kept its duplicates."],
	},
	variant: {
		name: "Variants", text: "One design in several colours, or with other content. These are not duplicates.", first: "First picture",
		none: ["No variants found", "No two pictures show one design in different versions."],
	},
};
const KEPT = "likeness.kept";
const kept = () => JSON.parse(localStorage.getItem(KEPT) || "[]");
/** A group that gets another copy is shown again. */
const signature = ({ id, copies }) => `${id}:${copies.length}`;

export function duplicatesView() {
	const list = div("groups");
	const below = div("below");
	const title = h("h1", { tabindex: "-1" });
	const explained = small("");
	let relation = "duplicate", hidden, cursor, current;
	const choice = (label, value) => h("label", {}, h("input", { type: "radio", name: "relation", checked: value === relation, onchange() {
		relation = value;
		show();
	} }), h("span", {}, label));
	const choices = h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, "What to list"),
		Object.entries(RELATIONS).map(([value, { name }]) => choice(name, value)));

	async function more() {
		const mine = (current = {});
		put(below, small("Loading …"));
		try {
			const page = await call(`v1/duplicates?${new URLSearchParams({ ...(relation !== "duplicate" && { relation }), ...(cursor && { cursor }) })}`);
			if (mine !== current) return;
			cursor = page.next_cursor;
			for (const group of page.groups) kept().includes(signature(group)) ? hidden.push(group) : list.append(card(group));
			if (!list.firstChild && cursor) return more();
			showFooter();
		} catch (problem) {
			if (mine === current) put(below, trouble(problem, more));
		}
	}

	function showFooter() {
		const again = () => { put(list, hidden.splice(0).map(card), true); showFooter(); };
		put(below, [!list.firstChild && notice(...RELATIONS[relation].none),
			cursor && button("More", more), hidden.length > 0 && button(`Show ${hidden.length} that you kept`, again)]);
	}

	function card(group) {
		const keep = button("Keep all", () => {
			localStorage.setItem(KEPT, JSON.stringify([...kept(), signature(group)].slice(-2000)));
			hidden.push(group);
			element.remove();
			showFooter();
		});
		const { first, actions } = RELATIONS[relation];
		const element = h("article", { class: "group" }, h("ul", {},
			group.original ? member(group.original, first) : small("The original was deleted."),
			group.copies.map((copy) => member(copy, sentence(copy), group.id))),
			actions && div("buttons", keep));
		return element;
	}

	function member({ id, key }, said, group) {
		const name = nameOf(key);
		const actions = RELATIONS[relation].actions && div("buttons");
		const element = h("li", {}, h("a", { href: idLink(id), "aria-label": `Search with ${name}` }, thumbnail(id, "", 240)),
			h("p", {}, name), small(said), actions);
		const decide = (decision, label) => button(label, async () => {
			try {
				await call("v1/duplicates/decisions", { json: { group, id, decision }, kind: "write" });
				offer(decision === "not_duplicate");
				announce(`${name}: ${label}`);
			} catch (problem) {
				actions.append(small(problem.message));
			}
		});
		function offer(apart) {
			element.classList.toggle("apart", apart);
			put(actions, [group && (apart ? decide("duplicate", "Undo") : decide("not_duplicate", "Not a duplicate")), remover(id, name, () => element.remove())]);
		}
		if (actions) offer(false);
		return element;
	}

	function show() {
		title.textContent = RELATIONS[relation].name;
		explained.textContent = RELATIONS[relation].text;
		put(list);
		hidden = [];
		cursor = null;
		more();
	}

	return { show, element: h("section", { class: "page" }, title, choices, explained, list, below) };
}
