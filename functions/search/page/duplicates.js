// Groups of duplicates, side by side, to keep, separate or delete.

import { call } from "./api.js";
import { announce, button, div, h, nameOf, put, small } from "./dom.js";
import { idLink } from "./state.js";
import { thumbnail } from "./thumbnails.js";
import { remover } from "./upload.js";
import { notice, sentence, trouble } from "./words.js";

const KEPT = "likeness.kept";
const kept = () => JSON.parse(localStorage.getItem(KEPT) || "[]");
/** A group that gets another copy is shown again. */
const signature = ({ id, copies }) => `${id}:${copies.length}`;

export function duplicatesView() {
	const list = div("groups");
	const below = div("below");
	let hidden, cursor, current;

	async function more() {
		const mine = (current = {});
		put(below, small("Loading …"));
		try {
			const page = await call(`v1/duplicates${cursor ? `?cursor=${cursor}` : ""}`);
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
		put(below, [!list.firstChild && notice("No duplicates to review", "Every picture is different, or you kept its duplicates."),
			cursor && button("More", more), hidden.length > 0 && button(`Show ${hidden.length} that you kept`, again)]);
	}

	function card(group) {
		const keep = button("Keep all", () => {
			localStorage.setItem(KEPT, JSON.stringify([...kept(), signature(group)].slice(-2000)));
			hidden.push(group);
			element.remove();
			showFooter();
		});
		const element = h("article", { class: "group" }, h("ul", {},
			group.original ? member(group.original, "Original") : small("The original was deleted."),
			group.copies.map((copy) => member(copy, sentence(copy), group.id))),
			div("buttons", keep));
		return element;
	}

	function member({ id, key }, said, group) {
		const name = nameOf(key);
		const actions = div("buttons");
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
		offer(false);
		return element;
	}

	return {
		show() {
			put(list);
			hidden = [];
			cursor = null;
			more();
		},
		element: h("section", { class: "page" }, h("h1", { tabindex: "-1" }, "Duplicates"),
			list, below),
	};
}
