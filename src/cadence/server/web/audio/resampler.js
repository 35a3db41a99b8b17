// From the microphone's rate to another one, piece by piece: pieces joined equal the whole done at once.

const HALF_WIDTH = 16; // zero crossings of the filter on each side

export class Resampler {
  #step; // input samples from one output sample to the next
  #cutoff; // of the lower of both rates, as a share of the input's
  #reach; // input samples that the filter sees on each side
  #held;
  #at; // of the next output sample, in #held

  constructor(from, to) {
    this.#step = from / to;
    this.#cutoff = Math.min(1, to / from) * 0.94;
    this.#reach = Math.ceil(HALF_WIDTH / this.#cutoff);
    this.#held = new Float32Array(this.#reach);
    this.#at = this.#reach;
  }

  push(samples) {
    if (this.#step === 1) return samples.slice();
    const held = new Float32Array(this.#held.length + samples.length);
    held.set(this.#held);
    held.set(samples, this.#held.length);
    const made = [];
    while (this.#at + this.#reach < held.length) {
      made.push(this.#sample(held, this.#at));
      this.#at += this.#step;
    }
    const done = Math.max(0, Math.floor(this.#at) - this.#reach);
    this.#held = held.slice(done);
    this.#at -= done;
    return Float32Array.from(made);
  }

  /** A windowed sinc around `at`. */
  #sample(held, at) {
    const first = Math.max(0, Math.ceil(at - this.#reach));
    const last = Math.min(held.length - 1, Math.floor(at + this.#reach));
    let sum = 0;
    for (let i = first; i <= last; i++) {
      const x = (i - at) * this.#cutoff;
      const sinc = Math.abs(x) < 1e-9 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
      sum += held[i] * sinc * (0.5 + 0.5 * Math.cos((Math.PI * (i - at)) / this.#reach));
    }
    return sum * this.#cutoff;
  }
}
