// A sound as people look at it: its waveform above its spectrogram, drawn while it arrives.

import { colour, onThemeChange, ramp } from "./colours.js";
import { HOP, NUM_BANDS, Spectrum } from "./spectrum.js";

const SPANS_S = [4, 6, 9, 14, 20, 30, 45, 60, 90, 120, 180, 300, 450, 600, 900, 1800, 3600];
const PEAK = 64; // samples behind one pair of the waveform
const WAVE_SHARE = 0.36; // of the height
const SOFT = 0.15; // what is softer than this does not fill the waveform's height

export class SoundPicture {
  #canvas;
  #waiting = false;
  #rate = 24000;
  #spectrum = new Spectrum(this.#rate);
  #peaks = []; // [lowest, highest] of each PEAK samples
  #loudest = SOFT;
  #numSamples = 0;
  #rest = [0, 0, 0]; // of the pair being filled: lowest, highest, count
  #complete = false;
  #position = null; // seconds heard; null = nothing is being played

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#draw()).observe(canvas);
    onThemeChange(() => this.#draw());
  }

  get duration() {
    return this.#numSamples / this.#rate;
  }

  reset(rate) {
    this.#rate = rate;
    this.#spectrum = new Spectrum(rate);
    this.#peaks = [];
    this.#rest = [0, 0, 0];
    this.#loudest = SOFT;
    this.#numSamples = 0;
    this.#complete = false;
    this.#position = null;
    this.#describe("Nothing yet");
    this.#canvas.parentElement.classList.add("empty");
    this.#draw();
  }

  push(samples) {
    if (samples.length === 0) return;
    this.#canvas.parentElement.classList.remove("empty");
    this.#numSamples += samples.length;
    this.#spectrum.push(samples);
    let [low, high, count] = this.#rest;
    for (const sample of samples) {
      low = count ? Math.min(low, sample) : sample;
      high = count ? Math.max(high, sample) : sample;
      if (++count === PEAK) {
        this.#peaks.push([low, high]);
        this.#loudest = Math.max(this.#loudest, -low, high);
        count = 0;
      }
    }
    this.#rest = [low, high, count];
    this.#draw();
  }

  /** All of it is there: show it from edge to edge. */
  finish() {
    this.#complete = true;
    this.#describe(`Waveform and spectrogram of ${this.duration.toFixed(1)} seconds of sound`);
    this.#draw();
  }

  /** Seconds heard so far, or null. */
  set position(seconds) {
    this.#position = seconds;
    this.#draw();
  }

  #describe(text) {
    this.#canvas.setAttribute("aria-label", text);
  }

  #span() {
    if (this.#complete && this.#numSamples > 0) return this.duration;
    return SPANS_S.find((span) => span >= this.duration) ?? this.duration;
  }

  #draw() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#paint();
    });
  }

  #paint() {
    const canvas = this.#canvas;
    const scale = devicePixelRatio;
    const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
    if (width === 0 || height === 0) return;
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const waveHeight = Math.round(height * WAVE_SHARE);
    this.#paintSpectrum(context, width, waveHeight, height - waveHeight);
    this.#paintWave(context, width, waveHeight);
    this.#paintPosition(context, width, height, scale);
  }

  #paintWave(context, width, height) {
    const middle = height / 2;
    const reach = (0.92 * middle) / this.#loudest;
    const played = this.#position === null ? Infinity : (this.#position / this.#span()) * width;
    const [bright, pale] = [colour("--wave"), colour("--wave-ahead")];
    context.fillStyle = colour("--line");
    context.fillRect(0, middle, width, 1);
    const perPixel = (this.#span() * this.#rate) / PEAK / width;
    for (let x = 0; x < width; x++) {
      const start = Math.floor(x * perPixel);
      if (start >= this.#peaks.length) break;
      let [low, high] = this.#peaks[start];
      for (let i = start + 1; i < Math.min((x + 1) * perPixel, this.#peaks.length); i++) {
        low = Math.min(low, this.#peaks[i][0]);
        high = Math.max(high, this.#peaks[i][1]);
      }
      const top = middle - high * reach;
      context.fillStyle = x <= played ? bright : pale;
      context.fillRect(x, top, 1, Math.max(1, (high - low) * reach));
    }
  }

  #paintSpectrum(context, width, top, height) {
    const frames = this.#spectrum.frames;
    const colours = ramp();
    const image = new ImageData(width, NUM_BANDS);
    const pixels = new Uint32Array(image.data.buffer).fill(colours[0]);
    const perPixel = (this.#span() * this.#rate) / HOP / width;
    for (let x = 0; x < width; x++) {
      const start = Math.floor(x * perPixel);
      if (start >= frames.length) break;
      const end = Math.min(Math.max(start + 1, Math.floor((x + 1) * perPixel)), frames.length);
      for (let band = 0; band < NUM_BANDS; band++) {
        let level = 0;
        for (let i = start; i < end; i++) level = Math.max(level, frames[i][band]);
        pixels[(NUM_BANDS - 1 - band) * width + x] = colours[level];
      }
    }
    this.#layer ??= document.createElement("canvas");
    this.#layer.width = width;
    this.#layer.height = NUM_BANDS;
    this.#layer.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(this.#layer, 0, top, width, height);
  }

  #layer = null; // the spectrogram before it is stretched to its height

  #paintPosition(context, width, height, scale) {
    if (this.#position === null || this.#numSamples === 0) return;
    const x = Math.min(width - 1, (this.#position / this.#span()) * width);
    context.fillStyle = colour("--cursor");
    context.fillRect(Math.round(x), 0, Math.max(1, Math.round(scale)), height);
  }
}
