"""Where the recipe keeps its files, its seed, and the sizes that several stages share."""

from __future__ import annotations

import os
from pathlib import Path

SEED = 20
SAMPLE_RATE_HZ = 24_000
CODE_SAMPLES = 960  # one speech code is 40 ms
MEL_SAMPLES = 480  # one mel frame of the flow and the vocoder is 20 ms
CODES_PER_GROUP = 4  # TA4: one text token, then four codes
LOG_EVERY = 50
CHECKPOINT_EVERY_S = 180.0


def work_dir() -> Path:
    """The folder for data, checkpoints and logs: $CADENCE_NANO_WORK, by default in the user's cache."""
    root = Path(os.environ.get("CADENCE_NANO_WORK", Path.home() / ".cache" / "cadence-nano"))
    (root / "logs").mkdir(parents=True, exist_ok=True)
    return root
