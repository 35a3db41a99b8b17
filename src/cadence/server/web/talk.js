// Talk: a spoken conversation. The server hears where turns end; speaking over an answer ends it.

import { ApiError, requestJson } from "./api.js";
import { openMicrophone } from "./audio/microphone.js";
import { PcmReader, fromBase64, pcm16, toBase64 } from "./audio/pcm.js";
import { Player } from "./audio/player.js";
import * as bubbles from "./bubbles.js";
import { byId, fillSelect, seconds, showProblem } from "./dom.js";
import { connect } from "./realtime.js";
import { onVoices } from "./voices.js";

const RATE = 24000;
const FORMAT = { type: "audio/pcm", rate: RATE };
const LARGEST_BACKLOG = 1 << 20; // bytes: a slow line drops sound rather than falling ever further behind
const still = matchMedia("(prefers-reduced-motion: reduce)");

const player = new Player();
let session = null; // {socket, microphone}
let starting = false;
let answering = null; // the response being given: its id
let heard = null; // the answer's item whose sound is playing
let pcm = null; // reads its samples
let turnEnded = 0; // when the person stopped speaking
let counts = { turns: 0, interrupted: 0 };

// ------------------------------------------------------------------ beginning and end
async function start() {
  starting = true;
  showProblem(byId("talk-problem"), null);
  state("Connecting…");
  try {
    await player.open(RATE); // in the click's own turn
    const [model] = (await requestJson("/v1/models")).data;
    const socket = await connect(model.id, { onEvent, onClose });
    session = { socket, microphone: null };
    socket.send("session.update", { session: settings(model.id) });
    restart();
    await listen();
  } catch (error) {
    state("Not connected");
    showProblem(byId("talk-problem"), error);
  } finally {
    starting = false;
    update();
  }
}

function restart() {
  bubbles.clear();
  answering = heard = null;
  counts = { turns: 0, interrupted: 0 };
  byId("talk-first").textContent = "–";
  figures();
}

/** Without a microphone the conversation goes on in writing. */
async function listen() {
  const mine = session;
  try {
    const microphone = await openMicrophone(RATE, (samples, level) => onSound(mine, samples, level));
    if (session !== mine) return microphone.close();
    mine.microphone = microphone;
    state("Listening");
  } catch (error) {
    state("Type to talk");
    showProblem(byId("talk-problem"), new ApiError(`${error.message} You can still type.`));
  }
}

function settings(model) {
  const instructions = byId("talk-instructions").value.trim();
  const voice = byId("talk-voice").value;
  return {
    type: "realtime",
    output_modalities: ["audio"],
    ...(instructions && { instructions }),
    audio: {
      input: { format: FORMAT, turn_detection: { type: "server_vad" }, transcription: { model } },
      output: { format: FORMAT, ...(voice && { voice }) },
    },
  };
}

function stop() {
  const ended = session;
  session = null;
  ended?.microphone?.close();
  ended?.socket.close();
  player.clear();
  answering = heard = null;
  ring(0);
  state("Not connected");
  update();
}

function onClose(code, reason) {
  if (!session) return; // we closed it
  stop();
  const restarting = code === 1012 ? "The server is restarting." : "The connection to the server broke.";
  showProblem(byId("talk-problem"), new ApiError(reason || restarting));
}

// ------------------------------------------------------------------ from the person
function onSound({ socket }, samples, level) {
  ring(level);
  if (socket.backlog < LARGEST_BACKLOG) socket.send("input_audio_buffer.append", { audio: toBase64(pcm16(samples)) });
}

async function type(text) {
  if (!session && !starting) await start();
  if (!session) return;
  hush();
  const item = { type: "message", role: "user", content: [{ type: "input_text", text }] };
  turnEnded = performance.now();
  session.socket.send("conversation.item.create", { item });
  session.socket.send("response.create");
}

/** End the answer that is being given or heard. */
function hush() {
  if (answering) session.socket.send("response.cancel", { response_id: answering });
  silence();
}

/** Fall silent, and tell the server how much of the answer was heard. */
function silence() {
  if (player.playing && heard) {
    const audio_end_ms = Math.floor(player.position * 1000);
    session.socket.send("conversation.item.truncate", { item_id: heard, content_index: 0, audio_end_ms });
    bubbles.cut(heard);
    counts.interrupted += 1;
    figures();
  }
  player.clear();
  heard = null;
  update();
}

// ------------------------------------------------------------------ from the server
const handlers = {
  "input_audio_buffer.speech_started": ({ item_id: id }) => {
    silence();
    bubbles.open(id, "user");
    state("Listening");
  },
  "input_audio_buffer.speech_stopped": () => {
    turnEnded = performance.now();
    state("Thinking");
  },
  "conversation.item.added": ({ item }) => {
    const [part] = item.content ?? [];
    if (item.role === "user" && part?.type === "input_text") bubbles.complete(item.id, "user", part.text);
  },
  "conversation.item.input_audio_transcription.delta": ({ item_id: id, delta }) => bubbles.write(id, "user", delta),
  "conversation.item.input_audio_transcription.completed": ({ item_id: id, transcript }) =>
    bubbles.complete(id, "user", transcript),
  "conversation.item.input_audio_transcription.failed": ({ item_id: id }) =>
    bubbles.complete(id, "user", "(could not be written down)"),
  "response.created": ({ response }) => {
    answering = response.id;
    heard = null;
    state("Thinking");
    update();
  },
  "response.output_audio_transcript.delta": ({ response_id: id, item_id: item, delta }) => {
    if (id === answering) bubbles.write(item, "assistant", delta);
  },
  "response.output_audio.delta": ({ response_id: id, item_id: item, delta }) => {
    if (id === answering) speak(item, delta);
  },
  "response.done": ({ response }) => onDone(response),
  error: ({ error }) => {
    if (error.code !== "response_cancel_not_active") showProblem(byId("talk-problem"), new ApiError(error.message));
  },
};

function onEvent(event) {
  if (session) handlers[event.type]?.(event);
}

function speak(item, delta) {
  if (heard !== item) {
    heard = item;
    pcm = new PcmReader();
    player.begin();
    byId("talk-first").textContent = seconds((performance.now() - turnEnded) / 1000);
    state("Speaking");
    update();
  }
  player.push(pcm.read(fromBase64(delta)));
}

function onDone(response) {
  const status = response.status;
  for (const item of response.output ?? []) {
    const text = item.content?.[0]?.transcript ?? item.content?.[0]?.text;
    bubbles.complete(item.id, "assistant", status === "completed" ? text : undefined);
    if (status === "cancelled") bubbles.cut(item.id);
  }
  if (response.id !== answering) return;
  answering = null;
  if (status === "completed") counts.turns += 1;
  if (status === "failed") {
    const told = response.status_details?.error?.message ?? "The answer could not be given.";
    showProblem(byId("talk-problem"), new ApiError(told));
  }
  player.end();
  if (!player.playing) rest();
  figures();
  update();
}

/** Nobody speaks. */
function rest() {
  heard = null;
  if (session) state(session.microphone ? "Listening" : "Type to talk");
  update();
}

// ------------------------------------------------------------------ what is shown
function state(text) {
  if (byId("talk-state").textContent !== text) byId("talk-state").textContent = text;
}

function update() {
  const on = session !== null;
  const go = byId("talk-go");
  go.classList.toggle("on", on);
  go.querySelector(".unseen").textContent = on ? "End the conversation" : "Start the conversation";
  go.querySelector("use").setAttribute("href", on ? "#icon-end" : "#icon-talk");
  go.title = on ? "End" : "Start";
  byId("talk-mute").disabled = !session?.microphone;
  byId("talk-hush").disabled = !on || !(answering || player.playing);
}

function figures() {
  byId("talk-turns").textContent = String(counts.turns);
  byId("talk-interrupted").textContent = String(counts.interrupted);
}

/** The microphone's level as a ring around the button. */
function ring(level) {
  const shape = byId("talk-ring").style;
  shape.transform = still.matches ? "" : `scale(${1 + 0.45 * level})`;
  shape.opacity = String(0.1 + 0.3 * level);
}

function mute() {
  const { microphone } = session;
  microphone.muted = !microphone.muted;
  byId("talk-mute").setAttribute("aria-pressed", String(microphone.muted));
  byId("talk-mute").querySelector("use").setAttribute("href", microphone.muted ? "#icon-muted" : "#icon-mic");
}

export function setUpTalk() {
  byId("talk-go").addEventListener("click", () => {
    if (session) stop();
    else if (!starting) start();
  });
  byId("talk-mute").addEventListener("click", mute);
  byId("talk-hush").addEventListener("click", hush);
  byId("talk-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = byId("talk-text").value.trim();
    byId("talk-text").value = "";
    if (text) type(text);
  });
  player.addEventListener("ended", rest);
  onVoices((voices) => fillSelect(byId("talk-voice"), voices.map((voice) => [voice.id, voice.label])));
}
