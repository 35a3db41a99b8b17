// A WebSocket to /v1/realtime: events as JSON in both directions.

import { ApiError, apiKey, requestJson } from "./api.js";

const KEY_PROTOCOL = "openai-insecure-api-key."; // a page cannot set a socket's headers

/** @throws {ApiError} when there will be no conversation */
export async function connect(model, { onEvent, onClose }) {
  const key = apiKey();
  const url = new URL(`/v1/realtime?model=${encodeURIComponent(model)}`, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  let socket;
  try {
    socket = new WebSocket(url, key ? ["realtime", KEY_PROTOCOL + key] : ["realtime"]);
  } catch {
    throw new ApiError("This API key has characters that a browser cannot send on a conversation's connection.");
  }
  await new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve, { once: true });
    socket.addEventListener("error", () => whyRefused().then(reject), { once: true });
  });
  socket.addEventListener("message", ({ data }) => onEvent(JSON.parse(data)));
  socket.addEventListener("close", ({ code, reason }) => onClose(code, reason));
  return {
    send(type, fields = {}) {
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type, ...fields }));
    },
    /** Bytes that wait to be sent. */
    get backlog() {
      return socket.bufferedAmount;
    },
    close: () => socket.close(1000),
  };
}

/** Browsers do not tell why a socket was refused; an ordinary request shows most reasons. */
async function whyRefused() {
  try {
    await requestJson("/v1/models");
    await requestJson("/health");
  } catch (error) {
    return error;
  }
  return new ApiError("The server did not open a conversation. It may have as many as it can hold, or none at all.");
}
