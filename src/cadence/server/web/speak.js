// Speak: a text goes out, and its sound is heard and drawn while it still comes in.

import { request } from "./api.js";
import { join, wavFile } from "./audio/pcm.js";
import { Player } from "./audio/player.js";
import { byId, clock, fillSelect, saveFile, seconds, showProblem } from "./dom.js";
import { SoundPicture } from "./draw/sound-picture.js";
import { RATE, SPEECH, streamSpeech } from "./speech-stream.js";
import { onVoices } from "./voices.js";

const LARGEST_SEED = 2 ** 31;
const FORMATS = ["wav", "mp3", "opus", "flac", "aac", "pcm"]; // those that the server has, in this order

const form = byId("speak-form");
const picture = new SoundPicture(byId("speak-picture"));
const player = new Player();
let work = null; // AbortController of the speech under way
let offset = 0; // seconds into the sound at which the player began
let spoken = null; // the last one: its samples, rate, and the fields that made it

/** The fields as they stand. The page draws the seed itself, so that the same speech can be made again. */
function fields() {
  const value = (name) => form.elements[name].value.trim();
  const seed = value("seed") ? Number(value("seed")) : Math.floor(Math.random() * LARGEST_SEED);
  const body = { input: form.elements.input.value, voice: form.elements.voice.value || "default", seed };
  if (value("temperature")) body.temperature = Number(value("temperature"));
  if (value("instructions")) body.instructions = value("instructions");
  if (!byId("speed-field").hidden && Number(value("speed")) !== 1) body.speed = Number(value("speed"));
  return body;
}

async function speak() {
  stop();
  const mine = (work = new AbortController());
  const body = fields();
  offset = 0;
  showProblem(byId("speak-problem"), null);
  figures({ seed: body.seed });
  update();
  byId("speak-status").textContent = "Waiting for the first sound.";
  try {
    await player.open(RATE); // in the click's own turn: later, browsers would keep the page silent
    await receive(body, mine.signal);
  } catch (error) {
    if (work === mine) player.end(); // what came is heard out
    byId("speak-status").textContent = "";
    showProblem(byId("speak-problem"), error);
  } finally {
    if (work === mine) {
      work = null;
      picture.finish();
      update();
    }
  }
}

async function receive(body, signal) {
  const started = performance.now();
  const since = () => (performance.now() - started) / 1000;
  const chunks = [];
  let first = null;
  const onStart = async (rate) => {
    if (rate !== RATE) await player.open(rate);
    picture.reset(rate);
    spoken = { samples: new Float32Array(0), rate, body };
  };
  const onSamples = (samples) => {
    first ??= since();
    chunks.push(samples);
    picture.push(samples);
    player.push(samples);
    figures({ first, duration: picture.duration, total: since(), seed: body.seed });
  };
  try {
    await streamSpeech(body, signal, onStart, onSamples);
  } finally {
    if (spoken?.body === body) spoken.samples = join(chunks);
  }
  player.end();
  figures({ first, duration: picture.duration, total: since(), seed: body.seed });
  byId("speak-status").textContent = `Complete: ${seconds(picture.duration)}, first sound after ${seconds(first)}.`;
}

function stop() {
  const wasWorking = work !== null;
  work?.abort();
  work = null;
  player.clear();
  if (wasWorking) picture.finish();
  onPosition();
}

/** Hear the last speech again, from `from` seconds on. */
async function again(from = 0) {
  if (!spoken || work) return;
  await player.open(spoken.rate);
  const start = Math.min(spoken.samples.length, Math.round(from * spoken.rate));
  offset = start / spoken.rate;
  player.push(spoken.samples.slice(start));
  player.end();
  update();
}

/** WAV from the very samples that were heard; other formats are made again with the same seed. */
async function save() {
  const format = byId("speak-format").value;
  const { samples, rate, body } = spoken;
  const button = byId("speak-save");
  button.setAttribute("aria-busy", "true");
  showProblem(byId("speak-problem"), null);
  try {
    if (format === "wav") return saveFile(wavFile(samples, rate), "speech.wav");
    const response = await request(SPEECH, { method: "POST", json: { ...body, response_format: format } });
    saveFile(await response.blob(), `speech.${format}`);
  } catch (error) {
    showProblem(byId("speak-problem"), error);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

// ------------------------------------------------------------------ what is shown
/** Which buttons can be used now. */
function update() {
  const canHear = spoken?.samples.length > 0 && work === null;
  byId("speak-go").setAttribute("aria-busy", String(work !== null));
  byId("speak-stop").disabled = work === null && !player.playing;
  byId("speak-again").disabled = byId("speak-save").disabled = byId("speak-slider").disabled = !canHear;
}

function figures({ first, duration, total, seed }) {
  byId("speak-first").textContent = seconds(first);
  byId("speak-rtf").textContent = duration ? (total / duration).toFixed(2) : "–";
  byId("speak-duration").textContent = duration ? `${duration.toFixed(2)} s` : "–";
  byId("speak-gaps").textContent = duration ? String(player.gaps) : "–";
  byId("speak-seed").textContent = seed;
}

function onPosition() {
  const at = player.playing ? offset + player.position : 0;
  const slider = byId("speak-slider");
  picture.position = player.playing ? at : null;
  slider.max = String(Math.max(picture.duration, 0.01));
  slider.value = String(at);
  slider.setAttribute("aria-valuetext", `${clock(at)} of ${clock(picture.duration)}`);
  byId("speak-clock").textContent = `${clock(at)} / ${clock(picture.duration)}`;
  update();
}

/** Fields and formats that depend on what the server offers. */
export function describeSpeak(offered) {
  byId("speed-field").hidden = offered.field("SpeechBody", "speed") === undefined;
  const there = offered.values("SpeechBody", "response_format");
  const formats = FORMATS.filter((format) => there.includes(format));
  fillSelect(byId("speak-format"), formats.map((format) => [format, format.toUpperCase()]));
}

export function setUpSpeak() {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    speak();
  });
  form.elements.input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  byId("speak-stop").addEventListener("click", stop);
  byId("speak-again").addEventListener("click", () => again());
  byId("speak-save").addEventListener("click", save);
  byId("speak-slider").addEventListener("input", (event) => again(Number(event.target.value)));
  form.elements.speed.addEventListener("input", (event) => {
    byId("speed-value").textContent = `${Number(event.target.value).toFixed(2)} ×`;
  });
  player.addEventListener("position", onPosition);
  player.addEventListener("ended", onPosition);
  player.addEventListener("gap", () => {
    byId("speak-gaps").textContent = String(player.gaps);
  });
  onVoices((voices) => fillSelect(form.elements.voice, voices.map((voice) => [voice.id, voice.label])));
}
