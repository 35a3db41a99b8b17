// Small helpers over the DOM. Text is always set as text: nothing from the network becomes markup.

export const byId = (id) => document.getElementById(id);

/** An element with properties (`class`, `text`, `on…` handlers, else attributes) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** An icon of the page's sprite. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Put `options`, each a string or `[value, label]`, into a select; keep what was chosen if it is still there. */
export function fillSelect(select, options, chosen = select.value) {
  select.replaceChildren(
    ...options.map((option) => {
      const [value, label] = Array.isArray(option) ? option : [option, option];
      return make("option", { value, text: label });
    }),
  );
  if (options.some((option) => (Array.isArray(option) ? option[0] : option) === chosen)) select.value = chosen;
}

/** Show an error where it happened, or take it away with null. Stopping on purpose is no error. */
export function showProblem(element, error) {
  if (error?.name === "AbortError") return;
  element.textContent = error ? error.message : "";
  element.hidden = !error;
  if (error && !("status" in error)) console.warn(error);
}

/** Hand the browser a file to save. */
export function saveFile(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export const seconds = (value) =>
  value == null ? "–" : value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(2)} s`;

/** `1:07` */
export function clock(value) {
  const whole = Math.floor(value + 1e-6);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
