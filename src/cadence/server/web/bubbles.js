// The conversation as it is written down: one bubble for each turn, filled while it is spoken.

import { byId, make } from "./dom.js";

const list = byId("talk-bubbles");
const bubbles = new Map(); // by the item's id

/** The bubble of an item, made when it is new. */
function bubble(id, role) {
  let found = bubbles.get(id);
  if (!found) {
    list.querySelector(".empty")?.remove();
    const who = make("span", { class: "unseen", text: role === "user" ? "You: " : "Cadence: " });
    const text = make("span", { text: "…" });
    const item = make("li", { class: `bubble ${role}`, "aria-busy": "true" }, who, text);
    found = { item, text, empty: true };
    bubbles.set(id, found);
    list.append(item);
    follow();
  }
  return found;
}

/** Keep the newest words in sight, unless the person has scrolled back to read. */
function follow() {
  if (list.scrollHeight - list.scrollTop - list.clientHeight < 160) list.scrollTop = list.scrollHeight;
}

export function open(id, role) {
  bubble(id, role);
}

export function write(id, role, delta) {
  const found = bubble(id, role);
  if (found.empty) found.text.textContent = "";
  found.empty = false;
  found.text.append(delta);
  follow();
}

/** The last word on an item: its whole text, if that is known. */
export function complete(id, role, text) {
  const found = bubble(id, role);
  if (text !== undefined) found.text.textContent = text.trim() || "(nothing was said)";
  else if (found.empty) found.text.textContent = "(nothing was said)";
  found.empty = false;
  found.item.removeAttribute("aria-busy");
  follow();
}

export function cut(id) {
  bubbles.get(id)?.item.classList.add("cut");
}

export function clear() {
  bubbles.clear();
  list.replaceChildren();
}
