// Sound out, piece after piece without a gap. One player plays one stream at a time.
//
// Pages reached over plain http from another machine have no AudioWorklet (browsers keep it for https and
// localhost); there the pieces are scheduled on the context's clock, which sounds the same.

import { ScheduledSink } from "./scheduled-sink.js";

const WORKLET = new URL("./player-worklet.js", import.meta.url);

export class Player extends EventTarget {
  /** Events: `position` (seconds heard), `ended` (all of a finished stream was heard), `gap` (it ran dry). */
  #context = null;
  #sink = null;
  #opening = null;
  #stream = 0; // counts them, so that reports of an earlier one are known
  #rate = 0;
  position = 0;
  gaps = 0;
  playing = false;

  /** Get ready for a new stream; call this in a click's or key's handler, else browsers keep the page silent. */
  open(rate) {
    const before = this.#opening ?? Promise.resolve();
    this.#opening = before.catch(() => {}).then(() => this.#open(rate)); // one after the other
    return this.#opening;
  }

  async #open(rate) {
    if (this.#context && this.#rate !== rate) await this.close();
    if (!this.#context) {
      this.#rate = rate;
      this.#context = new AudioContext({ sampleRate: rate, latencyHint: "interactive" });
      this.#sink = await this.#makeSink(this.#context);
    }
    this.begin();
    await this.#context.resume();
  }

  /** A new stream in the place of the old one; the player is open. */
  begin() {
    this.clear();
    this.playing = true;
  }

  async #makeSink(context) {
    const report = (event) => this.#onReport(event);
    if (!context.audioWorklet) return new ScheduledSink(context, report);
    await context.audioWorklet.addModule(WORKLET);
    const node = new AudioWorkletNode(context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    node.port.onmessage = ({ data }) => report(data);
    node.connect(context.destination);
    return {
      push: (samples) => node.port.postMessage({ samples }),
      end: () => node.port.postMessage({ end: true }),
      clear: (stream) => node.port.postMessage({ clear: stream }),
    };
  }

  #onReport({ stream, position, gap, ended }) {
    if (stream !== this.#stream) return; // of a stream that was cleared meanwhile
    this.position = position / this.#rate;
    if (gap) {
      this.gaps += 1;
      this.dispatchEvent(new Event("gap"));
    }
    this.dispatchEvent(new Event("position"));
    if (ended) {
      this.playing = false;
      this.dispatchEvent(new Event("ended"));
    }
  }

  /** Queue float samples; they are copied. */
  push(samples) {
    this.#sink?.push(samples);
  }

  /** Nothing more will come. */
  end() {
    this.#sink?.end();
  }

  /** Fall silent at once and forget what is queued. */
  clear() {
    this.#stream += 1;
    this.#sink?.clear(this.#stream);
    this.position = 0;
    this.gaps = 0;
    this.playing = false;
  }

  async close() {
    this.clear();
    const context = this.#context;
    this.#context = this.#sink = null;
    await context?.close();
  }
}
