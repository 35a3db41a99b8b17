// Light or dark: as the system says until the person says otherwise.

import { byId } from "./dom.js";
import { themeChanged } from "./draw/colours.js";

const KEPT = "cadence.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export function setUpTheme() {
  const button = byId("theme");
  let chosen = localStorage.getItem(KEPT);

  function apply() {
    const dark = chosen ? chosen === "dark" : system.matches;
    if (chosen) document.documentElement.dataset.theme = chosen;
    else delete document.documentElement.dataset.theme;
    button.setAttribute("aria-pressed", String(dark));
    themeChanged();
  }

  button.addEventListener("click", () => {
    const dark = button.getAttribute("aria-pressed") !== "true";
    chosen = dark === system.matches ? null : dark ? "dark" : "light";
    if (chosen) localStorage.setItem(KEPT, chosen);
    else localStorage.removeItem(KEPT);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}
