// Collects the microphone's samples and hands them to the page 30 times a second.

class CaptureProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = new Float32Array(Math.ceil(sampleRate / 30 / 128) * 128);
    this.count = 0;
  }

  process([channels]) {
    if (channels.length === 0) return true; // the source has not started yet
    this.held.set(channels[0], this.count);
    this.count += channels[0].length;
    if (this.count >= this.held.length) {
      this.port.postMessage(this.held.slice());
      this.count = 0;
    }
    return true;
  }
}

registerProcessor("capture", CaptureProcessor);
