// Listen: a recording goes out, and its transcript is written while the server still hears it.

import { ApiError, events, request } from "./api.js";
import { recordWith } from "./audio/recorder.js";
import { byId, fillSelect, saveFile, seconds, showProblem } from "./dom.js";
import { SoundPicture } from "./draw/sound-picture.js";

const PICTURE_RATE = 24000;
const LARGEST_DRAWN = 32 << 20; // bytes of a file that the page decodes itself, only to draw it
const FORMATS = { text: "txt", srt: "srt", vtt: "vtt", json: "json", verbose_json: "json" };

const picture = new SoundPicture(byId("listen-picture"));
const text = byId("listen-text");
let work = null; // AbortController of the transcription under way
let recording = null; // the File to hear
let duration = null; // its seconds, if the browser can tell
let model = null;

function fields(extra = {}) {
  const form = new FormData();
  form.append("file", recording, recording.name || "recording");
  if (model) form.append("model", model);
  for (const name of ["language", "hotwords"]) {
    const value = byId(`listen-${name}`).value.trim();
    if (value) form.append(name, value);
  }
  for (const [name, value] of Object.entries(extra)) form.append(name, value);
  return form;
}

const task = () => byId("listen-task").value;

async function hear(file) {
  work?.abort();
  recording = file;
  duration = null;
  const audio = byId("listen-player");
  if (audio.src) URL.revokeObjectURL(audio.src);
  audio.src = URL.createObjectURL(file);
  audio.hidden = false;
  await Promise.all([transcribe(), draw(file)]);
}

async function transcribe() {
  work?.abort();
  const mine = (work = new AbortController());
  const started = performance.now();
  const since = () => (performance.now() - started) / 1000;
  let first = null;
  text.textContent = "";
  showProblem(byId("listen-problem"), null);
  figures(null, null);
  update();
  try {
    for await (const piece of pieces(mine.signal)) {
      first ??= since();
      if (piece.whole === undefined) text.append(piece.delta);
      else text.textContent = piece.whole;
      figures(first, null);
    }
    if (!text.textContent.trim()) text.textContent = "(nothing was said)";
    figures(first, since());
  } catch (error) {
    showProblem(byId("listen-problem"), error);
  } finally {
    if (work === mine) work = null;
    update();
  }
}

/** The transcript as it comes: deltas, then the whole. */
async function* pieces(signal) {
  const form = fields({ stream: "true" });
  const response = await request(`/v1/audio/${task()}`, { method: "POST", form, signal });
  let complete = false;
  for await (const event of events(response)) {
    if (event.error || event.type === "error") {
      throw new ApiError(`The transcript broke off: ${(event.error ?? event).message}`);
    }
    if (event.type === "transcript.text.delta") yield { delta: event.delta };
    if (event.type === "transcript.text.done") {
      complete = true;
      yield { whole: event.text };
    }
  }
  if (!complete) throw new ApiError("The connection broke before the transcript was complete.");
}

/** Draw a file if the browser can decode it; the server may know more formats, so failing is no error. */
async function draw(file) {
  if (file.size > LARGEST_DRAWN) return picture.reset(PICTURE_RATE);
  const bytes = await file.arrayBuffer();
  const decoded = await new OfflineAudioContext(1, 1, PICTURE_RATE).decodeAudioData(bytes).catch(() => null);
  if (file !== recording) return;
  picture.reset(PICTURE_RATE);
  if (!decoded) return;
  duration = decoded.duration;
  byId("listen-duration").textContent = `${duration.toFixed(2)} s`;
  picture.push(decoded.getChannelData(0));
  picture.finish();
}

async function save() {
  const format = byId("listen-format").value;
  showProblem(byId("listen-problem"), null);
  try {
    const plain = format === "text";
    const form = plain ? null : fields({ response_format: format });
    const blob = plain
      ? new Blob([text.textContent], { type: "text/plain" })
      : await (await request(`/v1/audio/${task()}`, { method: "POST", form })).blob();
    saveFile(blob, `transcript.${FORMATS[format]}`);
  } catch (error) {
    showProblem(byId("listen-problem"), error);
  }
}

async function copy() {
  const label = byId("listen-copy").querySelector("span");
  try {
    await navigator.clipboard.writeText(text.textContent);
    label.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(text); // no clipboard for this page: at least ready for Ctrl+C
    label.textContent = "Selected";
  }
  setTimeout(() => (label.textContent = "Copy"), 1500);
}

// ------------------------------------------------------------------ what is shown
function update() {
  text.setAttribute("aria-busy", String(work !== null));
  byId("listen-stop").hidden = work === null;
  byId("listen-again").hidden = work !== null || recording === null;
  byId("listen-copy").disabled = byId("listen-save").disabled = work !== null || !text.textContent;
}

function figures(first, total) {
  byId("listen-first").textContent = seconds(first);
  byId("listen-rtf").textContent = total && duration ? (total / duration).toFixed(2) : "–";
  byId("listen-duration").textContent = duration ? `${duration.toFixed(2)} s` : "–";
}

export function describeListen(offered, modelName) {
  model = modelName;
  byId("task-field").hidden = !offered.path("/v1/audio/translations");
  const there = offered.values("TranscriptionForm", "response_format");
  const formats = Object.keys(FORMATS).filter((format) => format === "text" || there.includes(format));
  fillSelect(byId("listen-format"), formats.map((format) => [format, format.replace("_", " ").toUpperCase()]));
}

function setUpDrop() {
  const area = byId("listen-drop");
  const over = (on) => (event) => {
    event.preventDefault();
    area.classList.toggle("over", on);
  };
  area.addEventListener("dragover", over(true));
  area.addEventListener("dragleave", over(false));
  area.addEventListener("drop", (event) => {
    over(false)(event);
    const [file] = event.dataTransfer.files;
    if (file) hear(file);
  });
  byId("listen-file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) hear(file);
    event.target.value = "";
  });
}

export function setUpListen() {
  const [button, hint] = [byId("listen-record"), byId("listen-hint")];
  const label = button.querySelector("span");
  setUpDrop();
  recordWith(button, {
    onStart(rate) {
      showProblem(byId("listen-problem"), null);
      picture.reset(rate);
      hint.textContent = "Recording… press again to end";
      label.textContent = "End the recording";
    },
    onSamples: (samples) => picture.push(samples),
    onEnd(file) {
      hint.textContent = "Record yourself";
      label.textContent = "Record";
      hear(file);
    },
    onError: (error) => showProblem(byId("listen-problem"), error),
  });
  byId("listen-again").addEventListener("click", () => transcribe());
  byId("listen-stop").addEventListener("click", () => work?.abort());
  byId("listen-copy").addEventListener("click", copy);
  byId("listen-save").addEventListener("click", save);
}
