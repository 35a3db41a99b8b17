// The player's other way out, for pages without AudioWorklet: each piece starts where the last one ends.

const LEAD_S = 0.08; // between "now" and the first sample, so that the next piece has time to come
const REPORT_MS = 30;

export class ScheduledSink {
  #context;
  #report;
  #timer;
  #stream = 0;
  #sources = new Set();
  #next = 0; // context time at which the next piece starts; 0 = nothing is running
  #queued = 0; // samples scheduled so far
  #complete = false;
  #ended = false;

  constructor(context, report) {
    this.#context = context;
    this.#report = report;
    this.#timer = setInterval(() => this.#tell(), REPORT_MS);
  }

  push(samples) {
    if (samples.length === 0) return;
    const buffer = this.#context.createBuffer(1, samples.length, this.#context.sampleRate);
    buffer.copyToChannel(samples, 0);
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#context.destination);
    const now = this.#context.currentTime;
    if (this.#next < now) {
      if (this.#next > 0) this.#send({ gap: true });
      this.#next = now + LEAD_S;
    }
    source.start(this.#next);
    this.#next += buffer.duration;
    this.#queued += samples.length;
    this.#sources.add(source);
    source.onended = () => this.#sources.delete(source);
  }

  end() {
    this.#complete = true;
  }

  clear(stream) {
    for (const source of this.#sources) source.stop();
    this.#sources.clear();
    this.#stream = stream;
    this.#next = this.#queued = 0;
    this.#complete = this.#ended = false;
  }

  #tell() {
    if (this.#context.state === "closed") clearInterval(this.#timer);
    if (this.#context.state === "closed" || this.#ended || this.#queued === 0) return;
    const ended = this.#complete && this.#context.currentTime >= this.#next;
    this.#ended = ended;
    this.#send(ended ? { ended } : {});
  }

  #send(event) {
    const ahead = Math.max(0, this.#next - this.#context.currentTime) * this.#context.sampleRate;
    this.#report({ stream: this.#stream, position: Math.max(0, this.#queued - ahead), ...event });
  }
}
