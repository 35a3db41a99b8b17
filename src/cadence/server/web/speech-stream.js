// POST /v1/audio/speech as a stream of samples.

import { ApiError, request, requestJson } from "./api.js";
import { PcmReader } from "./audio/pcm.js";

export const SPEECH = "/v1/audio/speech";
export const RATE = 24000; // the model's own

/**
 * Speak a text. `onStart(rate)` comes before the first of `onSamples(Float32Array)`.
 * @throws {ApiError} refused, or broken off after some of it was heard
 */
export async function streamSpeech(body, signal, onStart, onSamples) {
  const response = await request(SPEECH, { method: "POST", json: { ...body, response_format: "pcm" }, signal });
  await onStart(Number(response.headers.get("X-Sample-Rate")) || RATE);
  const pcm = new PcmReader();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      onSamples(pcm.read(value));
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : await whyBroken(response.headers.get("X-Request-Id"));
  }
}

/** A stream of samples can only break off; the server remembers why. */
async function whyBroken(requestId) {
  const outcome = await requestJson(`${SPEECH}/${requestId}`).catch(() => null);
  const told = outcome?.error?.message;
  return new ApiError(told ? `The speech broke off: ${told}` : "The connection broke before the speech was complete.");
}
