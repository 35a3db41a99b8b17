// A recording from the microphone, and the button that starts and ends it.

import { openMicrophone } from "./microphone.js";
import { join, wavFile } from "./pcm.js";

const RATE = 24000;
const LONGEST_S = 600;

/**
 * Make `button` record: one press starts, the next one ends, or ten minutes do.
 * @param hooks `onStart(rate)`, `onSamples(samples, level)`, `onEnd(File)`, `onError(error)`
 */
export function recordWith(button, { onStart, onSamples = () => {}, onEnd, onError }) {
  let microphone = null;
  let opening = false;
  let chunks = [];
  let count = 0;

  async function begin() {
    opening = true;
    chunks = [];
    count = 0;
    try {
      microphone = await openMicrophone(RATE, take);
      button.classList.add("on");
      onStart(RATE);
    } catch (error) {
      onError(error);
    } finally {
      opening = false;
    }
  }

  function take(samples, level) {
    chunks.push(samples);
    count += samples.length;
    onSamples(samples, level);
    if (count >= LONGEST_S * RATE) end();
  }

  async function end() {
    const open = microphone;
    microphone = null;
    button.classList.remove("on");
    await open.close();
    onEnd(new File([wavFile(join(chunks), RATE)], "recording.wav", { type: "audio/wav" }));
  }

  button.addEventListener("click", () => {
    if (microphone) end();
    else if (!opening) begin();
  });
}
