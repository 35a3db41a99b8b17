// The server's own figures, from its Prometheus page.

import { request } from "./api.js";
import { byId, seconds } from "./dom.js";
import { colour, onThemeChange } from "./draw/colours.js";
import { parseMetrics, quantile, total } from "./metrics.js";

const EVERY_MS = 2000;
const KEPT = 60; // points of the chart: two minutes

const history = [];

async function refresh() {
  let metrics;
  try {
    // Nobody asked for this request, so it does not ask for a key either.
    metrics = parseMetrics(await (await request("/metrics", { asksForKey: false })).text());
  } catch (error) {
    byId("server-dot").className = "dot bad";
    byId("server-line").textContent = error.status === 401 ? "Server: needs an API key" : "Server: cannot be reached";
    return;
  }
  const running = total(metrics, "vllm_omni:num_requests_running") ?? 0;
  const waiting = total(metrics, "vllm_omni:num_requests_waiting") ?? 0;
  const count = (name) => String(total(metrics, name) ?? "–");
  const spread = (name) => {
    const [half, most] = [0.5, 0.95].map((share) => quantile(metrics, name, share));
    return half === null ? "–" : `${seconds(half)} · ${seconds(most)}`;
  };
  history.push({ running, waiting });
  history.splice(0, history.length - KEPT);
  byId("server-dot").className = "dot good";
  byId("server-line").textContent = `Server: ${running} in flight, ${waiting} waiting`;
  byId("server-running").textContent = String(running);
  byId("server-waiting").textContent = String(waiting);
  byId("server-answered").textContent = count("vllm_omni:requests_success_total");
  byId("server-failed").textContent = String(total(metrics, "vllm_omni:requests_failed_total") ?? 0);
  byId("server-ttfp").textContent = spread("vllm_omni:audio_ttfp_s");
  byId("server-e2e").textContent = spread("vllm_omni:e2e_request_latency_s");
  byId("server-rtf").textContent = quantile(metrics, "vllm_omni:audio_rtf", 0.5)?.toFixed(2) ?? "–";
  paint();
}

/** A bar for each look at the server: in flight below, waiting on top. */
function paint() {
  const canvas = byId("server-chart");
  const scale = devicePixelRatio;
  const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
  if (width === 0) return;
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const most = Math.max(4, ...history.map(({ running, waiting }) => running + waiting));
  const step = width / KEPT;
  context.fillStyle = colour("--line");
  context.fillRect(0, height - scale, width, scale);
  history.forEach(({ running, waiting }, i) => {
    const x = width - (history.length - i) * step;
    const bar = (value) => (value / most) * (height - scale);
    context.fillStyle = colour("--wave");
    context.fillRect(x, height - scale - bar(running), step - scale, bar(running));
    context.fillStyle = colour("--wave-ahead");
    context.fillRect(x, height - scale - bar(running + waiting), step - scale, bar(waiting));
  });
}

export function setUpStatus() {
  const look = () => document.visibilityState === "visible" && refresh();
  setInterval(look, EVERY_MS);
  document.addEventListener("visibilitychange", look);
  byId("server").addEventListener("toggle", paint);
  onThemeChange(paint);
  look();
}
