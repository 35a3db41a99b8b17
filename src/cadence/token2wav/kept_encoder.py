"""The voice encoder, open while it is needed: its models are large, and opening them takes a while."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cadence.token2wav.voices import VoiceEncoder, VoicePrompt

__all__ = ["KeptEncoder"]

IDLE_S = 60.0


class KeptEncoder:
    """Opens the encoder at first use and closes it when nobody has used it for a while. Thread-safe."""

    def __init__(self, make: Callable[[], VoiceEncoder], idle_s: float = IDLE_S) -> None:
        self._make, self._idle_s = make, idle_s
        self._lock = threading.Lock()
        self._encoder: VoiceEncoder | None = None
        self._timer: threading.Timer | None = None

    @property
    def is_open(self) -> bool:
        """Whether the models are in memory."""
        return self._encoder is not None

    def encode(self, data: bytes) -> VoicePrompt:
        """See `VoiceEncoder.encode`; also raises what opening it raises."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._encoder is None:
                self._encoder = self._make()
            try:
                return self._encoder.encode(data)
            finally:
                self._timer = threading.Timer(self._idle_s, self.close)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Free the models; the next use opens them again."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._encoder = self._timer = None
