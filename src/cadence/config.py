"""Typed configuration of a server: what flags and YAML files are turned into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cadence.types import ChunkSchedule

__all__ = ["EngineConfig", "ServeConfig", "ServerConfig", "ThinkerConfig", "Token2WavConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkerConfig:
    """The language-model stage.

    `kv_cache_tokens` bounds KV memory over all sequences; None = sized from free memory, at least one
    full context, at most `max_num_seqs` of them. `enable_prefix_caching` keeps what ended sequences left in
    it, for prompts that begin alike. While some listener runs dry, no other answer's speech is written more
    than `speech_ahead_s` ahead of its own. A step in which answers are written takes no more of a new prompt
    than fits `prefill_stall_s`. `weights` "int8" is faster on a CPU and not exact. `threads` None = a share
    of the cores (`runtime.threads`). `enforce_eager`: no CUDA graphs. `default_sampling` holds SamplingParams
    fields laid over the checkpoint's own defaults.
    """

    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 512
    max_model_len: int | None = None
    kv_cache_tokens: int | None = None
    enable_prefix_caching: bool = True
    enforce_eager: bool = False
    weights: str = "plain"
    speech_ahead_s: float = 5.0
    prefill_stall_s: float = 0.25
    default_sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token2WavConfig:
    """The vocoder stage. `num_steps` of the flow's solver: by default the checkpoint's, 10 for the public
    ones; fewer trade quality for speed. `flow_weights` "int8" and `vocoder_weights` "bfloat16" do so too,
    "plain" is exact. `flow_cache` "float16" or "bfloat16" and `flow_window_s` (seconds of its own speech that
    a stream looks back on, at most the prompt's length) make streams smaller, not exact either.
    `flow_history_s`: how much of a stream's speech the flow's encoder attends to, by default as the
    checkpoint asks, 100 s for the public ones. `noise_seed` fixes the flow's start noise; `voice_cache_bytes`
    bounds prepared voices, `max_num_seqs` sessions at once. `enforce_eager`: no CUDA graphs."""

    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    max_num_seqs: int = 16
    max_batch_size: int = 8
    enforce_eager: bool = False
    schedule: ChunkSchedule = field(default_factory=ChunkSchedule)
    num_steps: int | None = None
    flow_weights: str = "plain"
    flow_cache: str = "plain"
    vocoder_weights: str = "plain"
    flow_window_s: float | None = None
    flow_history_s: float | None = None
    noise_seed: int = 0
    voice_cache_bytes: int = 4 << 30
    default_voice: str | None = None
    default_prompt_wav: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How the stages are joined and what is admitted. Times in seconds.

    At most `max_waiting` requests queue, with no more than `max_waiting_audio_s` of sound among them.
    """

    async_chunk: bool = True
    thinker_only: bool = False
    in_process: bool = False
    max_running: int = 32
    max_waiting: int = 128
    max_waiting_audio_s: float = 7200.0
    max_queue_s: float = 30.0
    first_output_s: float = 120.0
    stall_s: float = 60.0
    deadline_s: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The HTTP edge. Byte limits hold while reading, before anything is decoded.

    `max_inflight` bounds requests whose body is read or answered at once. `body_stall_s` is the longest
    silence of a client that sends, `send_stall_s` of one that reads. With `allow_url_fetch` audio may
    come from http(s) URLs: of hosts in `allowed_media_domains` when that is not empty, else of any
    host whose every address is public. `allowed_local_media_path` permits `file://` below it.
    `playground` serves the page at `/`.

    At most `max_sockets` WebSockets are open. One is closed after `socket_idle_s` without a message from
    its client, a realtime session after `session_s` in all. A spoken turn lasts `max_turn_s` at most; of
    what a session has heard, the newest `session_audio_s` are kept.

    Recordings to transcribe may be `max_recording_s` long; `max_pieces_inflight` pieces of one are with the
    model at once.

    Uploaded voices lie in `voices_dir` (None = no uploads), at most `max_voices` of them with
    `max_voices_bytes` together, each from an upload of at most `max_voice_upload_bytes`. The policy says
    what a second upload under one name does: "overwrite" replaces the voice, "immutable" refuses.
    """

    host: str = "127.0.0.1"
    port: int = 8092
    api_keys: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_body_bytes: int = 64 << 20
    max_audio_s: float = 3600.0
    max_audio_bytes: int = 256 << 20
    max_recording_s: float = 6 * 3600.0
    max_pieces_inflight: int = 4
    max_input_chars: int = 100_000
    max_inflight: int = 512
    body_stall_s: float = 20.0
    send_stall_s: float = 60.0
    allow_url_fetch: bool = True
    url_fetch_s: float = 10.0
    url_fetch_bytes: int = 32 << 20
    allowed_media_domains: tuple[str, ...] = ()
    allowed_local_media_path: str | None = None
    spoken_keep_s: float = 3600.0
    max_spoken_answers: int = 4096
    max_spoken_bytes: int = 64 << 20
    drain_s: float = 30.0
    playground: bool = True
    max_sockets: int = 128
    socket_message_bytes: int = 16 << 20
    socket_idle_s: float = 600.0
    session_s: float = 3600.0
    max_turn_s: float = 300.0
    session_audio_s: float = 1800.0
    voices_dir: str | None = None
    voice_policy: Literal["overwrite", "immutable"] = "overwrite"
    max_voices: int = 1000
    max_voices_bytes: int = 2 << 30
    max_voice_upload_bytes: int = 10 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Everything `cadence serve` needs."""

    model: str
    served_model_names: tuple[str, ...] = ()
    thinker: ThinkerConfig = field(default_factory=ThinkerConfig)
    token2wav: Token2WavConfig = field(default_factory=Token2WavConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
