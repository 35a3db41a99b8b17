// The end of the line: what lies in the queue is copied to the loudspeaker, 128 samples at a time.

const START_S = 0.08; // sound to have before starting, and before going on after a gap
const REPORT_S = 0.03;
const FADE = 0.98; // per sample: silence begins with a few milliseconds of fading, never with a click

class PlayerProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.reset(0);
    this.port.onmessage = ({ data }) => {
      if (data.samples) {
        this.queue.push(data.samples);
        this.queued += data.samples.length;
      } else if (data.end) {
        this.complete = true;
      } else {
        this.reset(data.clear);
      }
    };
  }

  reset(stream) {
    this.stream = stream;
    this.queue = [];
    this.offset = 0; // into queue[0]
    this.queued = 0;
    this.position = 0; // samples heard
    this.reported = 0;
    this.running = this.complete = this.ended = false;
    this.last ??= 0;
  }

  process(_inputs, [[output]]) {
    const start = START_S * sampleRate;
    if (!this.running && this.queued > 0 && (this.complete || this.queued >= start)) this.running = true;
    const count = this.running ? this.#copy(output) : 0;
    for (let i = count; i < output.length; i++) output[i] = this.last *= FADE;
    this.position += count;
    if (this.running && count < output.length && !this.complete) {
      this.running = false;
      this.#report({ gap: true });
    } else if (this.complete && this.queued === 0 && !this.ended) {
      this.ended = true;
      this.running = false;
      this.#report({ ended: true });
    } else if (this.position - this.reported >= REPORT_S * sampleRate) {
      this.#report({});
    }
    return true;
  }

  #copy(output) {
    let filled = 0;
    while (filled < output.length && this.queue.length > 0) {
      const head = this.queue[0];
      const part = head.subarray(this.offset, this.offset + output.length - filled);
      output.set(part, filled);
      filled += part.length;
      this.offset += part.length;
      if (this.offset === head.length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    this.queued -= filled;
    if (filled > 0) this.last = output[filled - 1];
    return filled;
  }

  #report(event) {
    this.reported = this.position;
    this.port.postMessage({ stream: this.stream, position: this.position, ...event });
  }
}

registerProcessor("player", PlayerProcessor);
