// Tabs as the ARIA practices describe them: arrows move, the address remembers (as `#/listen`, which is no
// element's id: the page must not jump to it).

import { byId } from "./dom.js";

/** `onShow[name]` is called each time that tab comes up. */
export function setUpTabs(onShow) {
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  const nameOf = (tab) => tab.getAttribute("aria-controls");

  function show(tab, { focus = false } = {}) {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      byId(nameOf(other)).hidden = !chosen;
    }
    if (focus) tab.focus();
    const hash = `#/${nameOf(tab)}`;
    if (location.hash !== hash) history.replaceState(null, "", hash);
    onShow[nameOf(tab)]?.();
  }

  const named = () => tabs.find((tab) => `#/${nameOf(tab)}` === location.hash) ?? tabs[0];
  for (const [i, tab] of tabs.entries()) {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 };
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(tabs[(moves[event.key] + tabs.length) % tabs.length], { focus: true });
    });
  }
  addEventListener("hashchange", () => show(named()));
  show(named());
}
