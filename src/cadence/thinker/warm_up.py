"""What the first request would pay for those after it, paid while the stage loads: the head's layouts for
speech, choice of kernels, pools of threads."""

from __future__ import annotations

from cadence.thinker.core import ThinkerCore
from cadence.types import Prompt, SamplingParams, StepOutput, ThinkerRequest

__all__ = ["warm_up"]

_PROMPT = (0, 1, 2, 3)
_NUM_IDS = 6  # a group of speech and one more; with the prompt less than a block that others could share
_SAID = {"speech": (0,) * 8, "end-of-speech": (0,), "text": None}


def warm_up(core: ThinkerCore) -> None:
    """Read a prompt and write a few ids in each way of choosing them: speech with text left, speech that may
    end, freely. Raises what a step fails with."""
    for name, forced in _SAID.items():
        request = ThinkerRequest(
            request_id=f"warm-up-{name}",
            prompt=Prompt(ids=_PROMPT),
            sampling=SamplingParams(temperature=0.0, max_tokens=_NUM_IDS, ignore_eos=True),
            forced_text_ids=forced,
        )
        core.add(request, core.check(request))
    while core.has_work:
        for _, item in core.step():
            if not isinstance(item, StepOutput):
                raise item
