// Voices: those of the checkpoint and those that people added; the other tabs' voice pickers follow.

import { ApiError, request, requestJson } from "./api.js";
import { Player } from "./audio/player.js";
import { recordWith } from "./audio/recorder.js";
import { byId, icon, make, showProblem } from "./dom.js";
import { RATE, streamSpeech } from "./speech-stream.js";

const ROUTE = "/v1/audio/voices";

const form = byId("voice-form");
const player = new Player();
const listeners = new Set();
let known = [];
let trying = null; // the voice being heard: its button and AbortController
let recorded = null; // a File from the microphone, used unless a file is chosen

/** `listener(voices)` hears about every change; each voice is `{id, label, uploaded}`. */
export function onVoices(listener) {
  listeners.add(listener);
  if (known.length) listener(known);
}

export async function loadVoices() {
  const { voices } = await requestJson(ROUTE);
  known = voices.map(({ id, name, type }) => ({ id, label: name, uploaded: type !== "built_in" }));
  listeners.forEach((listener) => listener(known));
}

function show(voices) {
  byId("voices-list").replaceChildren(...voices.map(row));
}

function row(voice) {
  const name = make("span", { class: "name", text: voice.label });
  name.append(make("small", { text: voice.uploaded ? "added here" : "built in" }));
  const item = make("li", {}, name);
  const button = make("button", { type: "button", onclick: () => attempt(voice, button) }, icon("play"), "Try");
  button.setAttribute("aria-label", `Try ${voice.label}`);
  item.append(button);
  if (voice.uploaded) {
    const remove = make("button", { type: "button", class: "bare", onclick: () => forget(voice, remove) }, icon("trash"));
    remove.setAttribute("aria-label", `Delete ${voice.label}`);
    remove.title = `Delete ${voice.label}`;
    item.append(remove);
  }
  return item;
}

/** Hear a voice; the same button again ends it. */
async function attempt(voice, button) {
  const same = trying?.button === button;
  hush();
  if (same) return;
  const mine = (trying = { button, control: new AbortController() });
  button.replaceChildren(icon("stop"), "Stop");
  showProblem(byId("voices-problem"), null);
  const body = { input: byId("voices-sentence").value.trim() || "Hello.", voice: voice.id };
  try {
    await player.open(RATE);
    const onStart = async (rate) => rate !== RATE && player.open(rate);
    await streamSpeech(body, mine.control.signal, onStart, (samples) => player.push(samples));
    player.end();
  } catch (error) {
    if (trying === mine) hush();
    showProblem(byId("voices-problem"), error);
  }
}

function hush() {
  trying?.control.abort();
  trying?.button.replaceChildren(icon("play"), "Try");
  trying = null;
  player.clear();
}

async function forget(voice, button) {
  if (!confirm(`Delete the voice ${voice.label}? It cannot be brought back.`)) return;
  showProblem(byId("voices-problem"), null);
  button.disabled = true;
  try {
    await request(`${ROUTE}/${encodeURIComponent(voice.id)}`, { method: "DELETE" });
    await loadVoices();
    byId("voices").focus();
  } catch (error) {
    button.disabled = false;
    showProblem(byId("voices-problem"), error);
  }
}

async function add() {
  const { file, ref_text: text } = form.elements;
  const name = form.elements.name.value.trim();
  const sample = file.files[0] ?? recorded;
  showProblem(byId("voice-problem"), null);
  if (!sample) {
    return showProblem(byId("voice-problem"), new ApiError("Choose or record a sample of the voice first."));
  }
  const data = new FormData();
  data.append("name", name);
  data.append("consent", `confirmed on the playground, ${new Date().toISOString().slice(0, 10)}`);
  data.append("audio_sample", sample, sample.name);
  if (text.value.trim()) data.append("ref_text", text.value.trim());
  const button = form.querySelector("[type=submit]");
  button.disabled = true;
  byId("voice-status").textContent = "The server listens to the recording…";
  try {
    await request(ROUTE, { method: "POST", form: data });
    byId("voice-status").textContent = `${name} was added. Every tab can speak with it now.`;
    form.reset();
    keep(null);
    await loadVoices();
  } catch (error) {
    byId("voice-status").textContent = "";
    showProblem(byId("voice-problem"), error);
  } finally {
    button.disabled = false;
  }
}

/** Take a recording as the sample, or none with null. */
function keep(file) {
  recorded = file;
  const sample = byId("voice-sample");
  if (sample.src) URL.revokeObjectURL(sample.src);
  if (file) sample.src = URL.createObjectURL(file);
  else sample.removeAttribute("src");
  sample.hidden = !file;
}

export function describeVoices(offered) {
  form.hidden = !offered.path(ROUTE, "post");
}

export function setUpVoices() {
  const label = byId("voice-record").querySelector("span");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    add();
  });
  form.elements.file.addEventListener("change", () => keep(form.elements.file.files[0] ?? null));
  recordWith(byId("voice-record"), {
    onStart() {
      showProblem(byId("voice-problem"), null);
      label.textContent = "End the recording";
    },
    onEnd(file) {
      label.textContent = "Record again";
      form.elements.file.value = "";
      keep(file);
    },
    onError: (error) => showProblem(byId("voice-problem"), error),
  });
  player.addEventListener("ended", hush);
  onVoices(show);
}
