// The style sheet's colours for what is drawn on a canvas, in light and in dark.

const NUM_STOPS = 5;
const probe = document.createElement("span");
probe.hidden = true;
document.body.append(probe);

const known = new Map();
let levels = null;
const listeners = new Set();

/** A custom property as a colour that a canvas understands. */
export function colour(name) {
  if (!known.has(name)) {
    probe.style.color = `var(${name})`;
    known.set(name, getComputedStyle(probe).color);
  }
  return known.get(name);
}

/** Spectrogram colours of the levels 0…255, as ImageData stores them. */
export function ramp() {
  if (levels) return levels;
  const stops = Array.from({ length: NUM_STOPS }, (_, i) => colour(`--heat-${i}`).match(/[\d.]+/g).map(Number));
  levels = Uint32Array.from({ length: 256 }, (_, level) => {
    const at = (level / 255) * (NUM_STOPS - 1);
    const [from, to] = [stops[Math.floor(at)], stops[Math.ceil(at)]];
    const mix = (i) => Math.round(from[i] + (to[i] - from[i]) * (at % 1));
    return (255 << 24) | (mix(2) << 16) | (mix(1) << 8) | mix(0); // little-endian bytes: red first
  });
  return levels;
}

export function onThemeChange(listener) {
  listeners.add(listener);
}

/** Forget the colours of the other theme and draw everything again. */
export function themeChanged() {
  known.clear();
  levels = null;
  listeners.forEach((listener) => listener());
}
