// Sound in: the microphone's samples, mono, at the rate that is asked for.

import { ApiError } from "../api.js";
import { Resampler } from "./resampler.js";

const WORKLET = new URL("./capture-worklet.js", import.meta.url);

const REASONS = {
  NotAllowedError: "The microphone is blocked for this page. Allow it in the browser's address bar, then try again.",
  NotFoundError: "There is no microphone on this device.",
  NotReadableError: "The microphone is in use by another program.",
};

/**
 * Open the microphone. `onSamples(Float32Array, level)` is called about 30 times a second with a level of 0…1.
 * @returns {Promise<{close: () => Promise<void>, muted: boolean}>}
 * @throws {ApiError} in plain words
 */
export async function openMicrophone(rate, onSamples) {
  if (!navigator.mediaDevices || !window.AudioWorkletNode) {
    throw new ApiError(
      "Browsers give pages the microphone only over https or on localhost. Open this page through one of these.",
      { code: "insecure" },
    );
  }
  const wanted = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  const stream = await navigator.mediaDevices.getUserMedia({ audio: wanted }).catch((error) => {
    throw new ApiError(REASONS[error.name] ?? "The microphone could not be opened.", { code: error.name });
  });
  const context = new AudioContext(); // at the device's own rate: not every browser converts on the way in
  try {
    await context.audioWorklet.addModule(WORKLET);
    await context.resume();
  } catch (error) {
    stream.getTracks().forEach((track) => track.stop());
    await context.close();
    throw error;
  }
  const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
  const resampler = new Resampler(context.sampleRate, rate);
  const microphone = {
    muted: false,
    async close() {
      node.port.onmessage = null;
      stream.getTracks().forEach((track) => track.stop());
      if (context.state !== "closed") await context.close();
    },
  };
  node.port.onmessage = ({ data }) => {
    const samples = microphone.muted ? new Float32Array(data.length) : data;
    onSamples(resampler.push(samples), level(samples));
  };
  context.createMediaStreamSource(stream).connect(node);
  return microphone;
}

/** Loudness as people see it: decibels from -54 to -6 spread over 0…1. */
function level(samples) {
  const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
  return Math.max(0, Math.min(1, (10 * Math.log10(power + 1e-9) + 54) / 48));
}
