"""What an engine counts, in Prometheus terms. Names say their unit; labels come from closed sets only.

Names that dashboards of vLLM-Omni know are kept (`vllm_omni:*`), gauges of our own start with
`cadence:`. Each engine has its own registry: two engines in one process never mix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from cadence.errors import CadenceError
from cadence.types import FinishReason, Timings, Usage

__all__ = ["CONTENT_TYPE", "CONTINUITY_THRESHOLD_S", "EngineMetrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CONTINUITY_THRESHOLD_S = 0.1  # a longer gap is heard: the field's threshold for a broken stream

_LATENCY_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 30, 60, 120, 300, 900)
_RATIO = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1, 1.2, 1.5, 2, 3, 5, 10)
_AUDIO_S = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


class EngineMetrics:
    """Counters, histograms and gauges of one engine.

    Args:
        model_name: value of the label `model_name`; one per engine.
    """

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model_name
        self._gauges: dict[str, Gauge] = {}
        self._running = self._gauge("vllm_omni:num_requests_running", "Requests being answered.")
        self._waiting = self._gauge("vllm_omni:num_requests_waiting", "Requests in the queue.")
        self._success = self._counter(
            "vllm_omni:requests_success", "Requests answered to the end.", "finished_reason"
        )
        self._failed = self._counter(
            "vllm_omni:requests_failed", "Requests that ended in an error.", "reason"
        )
        self._prompt_tokens = self._counter("vllm_omni:prompt_tokens", "Prompt tokens read.")
        self._prefix_queries = self._counter(
            "vllm_omni:prefix_cache_queries", "Prompt tokens looked up among those computed before."
        )
        self._prefix_hits = self._counter(
            "vllm_omni:prefix_cache_hits", "Prompt tokens that were there and not computed again."
        )
        self._generated = self._counter("vllm_omni:generation_tokens", "Tokens generated.")
        self._continuous = self._counter(
            "vllm_omni:audio_continuity_ok", "Spoken answers without an audible gap.", "threshold_ms"
        )
        self._spoken = self._counter(
            "vllm_omni:speech_stream_completed", "Spoken answers that reached their end."
        )
        self._broken = self._counter(
            "vllm_omni:speech_stream_aborted",
            "Spoken answers that broke off after their first sound.",
            "reason",
        )
        self._e2e = self._histogram("vllm_omni:e2e_request_latency_s", "Submission to end.", _LATENCY_S)
        self._queued = self._histogram("vllm_omni:request_queue_wait_s", "Time in the queue.", _LATENCY_S)
        self._ttft = self._histogram("cadence:time_to_first_token_s", "Submission to first id.", _LATENCY_S)
        self._ttfp = self._histogram("vllm_omni:audio_ttfp_s", "Submission to first sound.", _LATENCY_S)
        self._duration = self._histogram("vllm_omni:audio_duration_s", "Length of spoken answers.", _AUDIO_S)
        self._rtf = self._histogram("vllm_omni:audio_rtf", "Latency by length of the sound.", _RATIO)
        self._underrun = self._histogram(
            "vllm_omni:audio_underrun_s", "Worst lag of the sound behind a player.", (0, *_LATENCY_S)
        )
        self._gap = self._histogram("cadence:audio_chunk_gap_s", "Time between chunks of sound.", _LATENCY_S)
        for reason in get_args(FinishReason):
            self._success.labels(model_name, reason)

    def finished(
        self, reason: FinishReason, usage: Usage, timings: Timings, underrun_s: float | None
    ) -> None:
        """Count an answer that ended by itself; `underrun_s` None = it had no sound."""
        self._success.labels(self._model, reason).inc()
        self._prompt_tokens.labels(self._model).inc(usage.prompt_tokens)
        self._prefix_queries.labels(self._model).inc(usage.prompt_tokens)
        self._prefix_hits.labels(self._model).inc(usage.prompt_cached_tokens)
        self._generated.labels(self._model).inc(usage.completion_tokens)
        self._observe(self._e2e, timings.total_s)
        self._observe(self._queued, timings.queue_s)
        self._observe(self._ttft, timings.first_token_s)
        if underrun_s is None or timings.audio_s <= 0:
            return
        self._spoken.labels(self._model).inc()
        self._observe(self._ttfp, timings.first_audio_s)
        self._observe(self._duration, timings.audio_s)
        self._observe(self._rtf, timings.total_s / timings.audio_s)
        self._observe(self._underrun, underrun_s)
        if underrun_s <= CONTINUITY_THRESHOLD_S:
            self._continuous.labels(self._model, str(round(CONTINUITY_THRESHOLD_S * 1000))).inc()

    def failed(self, error: CadenceError, *, after_sound: bool = False) -> None:
        """Count a request that ended in an error, by the error's class (never by its text).

        Args:
            after_sound: some of the answer had been spoken already.
        """
        reason = type(error).default_code
        self._failed.labels(self._model, reason).inc()
        if after_sound:
            self._broken.labels(self._model, reason).inc()

    def chunk_gap(self, gap_s: float) -> None:
        """Count the time between two chunks of sound."""
        self._observe(self._gap, gap_s)

    def set_gauges(self, num_running: int, num_waiting: int, stages: Mapping[str, float]) -> None:
        """Set what is read just before rendering; stage gauges become `cadence:<name>`."""
        self._running.labels(self._model).set(num_running)
        self._waiting.labels(self._model).set(num_waiting)
        for name, value in stages.items():
            gauge = self._gauges.get(name)
            if gauge is None:
                gauge = self._gauges[name] = self._gauge(f"cadence:{name}", "Gauge of a stage.")
            gauge.labels(self._model).set(value)

    def render(self) -> bytes:
        """Everything in the Prometheus text format."""
        return generate_latest(self.registry)

    # ------------------------------------------------------------------ inside
    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("model_name",), registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, ("model_name", *labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model_name",), registry=self.registry, buckets=buckets)

    def _observe(self, histogram: Histogram, value: float | None) -> None:
        if value is not None:
            histogram.labels(self._model).observe(value)
