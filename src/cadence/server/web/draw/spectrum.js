// Sound to mel bands, a frame at a time, as the samples come.

const SIZE = 1024; // samples of one frame
export const HOP = 256;
export const NUM_BANDS = 96;
const FLOOR_DB = -72; // what is softer than this below full scale is drawn as silence
const MIN_HZ = 40;

const mel = (hz) => 2595 * Math.log10(1 + hz / 700);
const hertz = (m) => 700 * (10 ** (m / 2595) - 1);

export class Spectrum {
  /** Frames so far, each `NUM_BANDS` levels of 0…255, the lowest band first. */
  frames = [];
  #held = new Float32Array(SIZE);
  #count = SIZE - HOP; // zeros before the first sample: the first frame stands at its time
  #window = Float32Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
  #bands;

  constructor(rate) {
    const [low, high] = [mel(MIN_HZ), mel(rate / 2)];
    const edges = Array.from({ length: NUM_BANDS + 1 }, (_, i) => hertz(low + ((high - low) * i) / NUM_BANDS));
    const bins = edges.map((edge) => Math.min(SIZE / 2 - 1, Math.round((edge * SIZE) / rate)));
    this.#bands = bins.slice(1).map((end, i) => [bins[i], Math.max(bins[i] + 1, end)]);
  }

  push(samples) {
    let at = 0;
    while (at < samples.length) {
      const part = samples.subarray(at, at + SIZE - this.#count);
      this.#held.set(part, this.#count);
      this.#count += part.length;
      at += part.length;
      if (this.#count < SIZE) continue;
      this.frames.push(this.#frame());
      this.#held.copyWithin(0, HOP);
      this.#count = SIZE - HOP;
    }
  }

  #frame() {
    const power = powers(this.#held.map((sample, i) => sample * this.#window[i]));
    const levels = new Uint8Array(NUM_BANDS);
    this.#bands.forEach(([start, end], band) => {
      let peak = 0;
      for (let bin = start; bin < end; bin++) peak = Math.max(peak, power[bin]);
      const decibels = 10 * Math.log10(peak / (SIZE / 4) ** 2 + 1e-12);
      levels[band] = Math.max(0, Math.min(255, Math.round(255 * (1 - decibels / FLOOR_DB))));
    });
    return levels;
  }
}

const BITS = Math.log2(SIZE);
const REVERSED = Uint16Array.from({ length: SIZE }, (_, i) => {
  let turned = 0;
  for (let bit = 0; bit < BITS; bit++) turned |= ((i >> bit) & 1) << (BITS - 1 - bit);
  return turned;
});
const COS = Float32Array.from({ length: SIZE / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / SIZE));
const SIN = Float32Array.from({ length: SIZE / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / SIZE));

/** Power of each frequency bin below the middle: a radix-2 Fourier transform in place. */
export function powers(samples) {
  const real = Float32Array.from(REVERSED, (i) => samples[i]);
  const imaginary = new Float32Array(SIZE);
  for (let half = 1; half < SIZE; half *= 2) {
    const stride = SIZE / (2 * half);
    for (let block = 0; block < SIZE; block += 2 * half) {
      for (let i = 0; i < half; i++) {
        const [a, b] = [block + i, block + i + half];
        const [c, s] = [COS[i * stride], SIN[i * stride]];
        const re = real[b] * c + imaginary[b] * s;
        const im = imaginary[b] * c - real[b] * s;
        real[b] = real[a] - re;
        imaginary[b] = imaginary[a] - im;
        real[a] += re;
        imaginary[a] += im;
      }
    }
  }
  return Float32Array.from({ length: SIZE / 2 }, (_, i) => real[i] ** 2 + imaginary[i] ** 2);
}
