"""`python -m training.nano STAGE…`: run stages of the recipe in order; `all` runs every one."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

from training.nano import settings

_STAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {  # module, function, its arguments
    "corpus": ("corpus", "run", ()),
    "vocabulary": ("text_vocabulary", "run", ()),
    "speech-female": ("speech", "run", ("female",)),
    "speech-male": ("speech", "run", ("male",)),
    "speech-timed": ("speech", "run", ("male-timed",)),
    "speech-chat": ("speech", "run_chat", ()),
    "joined-female": ("joined", "run", ("female",)),
    "joined-male": ("joined", "run", ("male",)),
    "speech-tokenizer": ("speech_tokenizer", "run", ()),
    "speaker": ("speaker", "run", ()),
    "vocoder": ("vocoder", "run", ()),
    "flow-encoder": ("flow", "run_encoder", ()),
    "flow": ("flow", "run", ()),
    "rendered-female": ("rendered", "run", ("female",)),
    "rendered-male": ("rendered", "run", ("male",)),
    "rendered-timed": ("rendered", "run", ("male-timed",)),
    "vocoder-tune": ("vocoder", "run_tune", ()),
    "thinker": ("thinker", "run", ()),
    "hearing-female": ("hearing_data", "run", ("female",)),
    "hearing-male": ("hearing_data", "run", ("male",)),
    "hearing-joined": ("hearing_data", "run_joined", ()),
    "hearing-chat": ("hearing_data", "run_chat", ()),
    "hearing": ("hearing", "run", ()),
    "evaluate": ("evaluate", "run", ()),
    "export": ("export", "run", ()),
    "curves": ("curves", "run", ()),
}


def main() -> None:
    """Run the named stages; each writes logs/STAGE.json with its result and time."""
    parser = argparse.ArgumentParser(prog="python -m training.nano", description=__doc__)
    parser.add_argument("stages", nargs="+", choices=[*_STAGES, "all"])
    parser.add_argument("--skip-done", action="store_true", help="skip stages that finished before")
    args = parser.parse_args()
    for stage in _STAGES if "all" in args.stages else args.stages:
        report = settings.work_dir() / "logs" / f"{stage}.json"
        if args.skip_done and report.exists():
            print(f"{stage}: done before")
            continue
        begun = time.monotonic()
        module, function, arguments = _STAGES[stage]
        result = getattr(importlib.import_module(f"training.nano.{module}"), function)(*arguments)
        report.write_text(
            json.dumps({"stage": stage, "seconds": round(time.monotonic() - begun, 1), **result}, indent=1)
            + "\n"
        )
        print(f"{stage}: {result}")


if __name__ == "__main__":
    main()
