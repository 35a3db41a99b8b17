"""How far int8 weights move the built-in Thinker: error of the logits, and greedy codes that stay.

    python bench/thinker_int8.py

Both read what the exact model wrote for ten texts (greedy codes), so a difference does not add up.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

import cadence
from cadence.bench.data import PROMPTS
from cadence.models.qwen2 import causal_attention
from cadence.models.step_audio import load_step_audio
from cadence.text import Tokenizer
from cadence.thinker.core import CoreLimits, ThinkerCore
from cadence.types import Prompt, SamplingParams, StepOutput, ThinkerRequest

NANO = Path(cadence.__file__).parent / "nano"
MAX_TOKENS = 400


class Alone:
    """`AttentionMemory` of one sequence that begins here."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Plain causal attention."""
        return causal_attention(q[None], k[None], v[None])[0]


def speak(core: ThinkerCore, prompt: list[int], text: list[int]) -> list[int]:
    """Ids of a spoken text."""
    request = ThinkerRequest(
        request_id="speak",
        prompt=Prompt(ids=tuple(prompt)),
        sampling=SamplingParams(temperature=0, max_tokens=MAX_TOKENS),
        forced_text_ids=tuple(text),
    )
    core.add(request, core.check(request))
    ids: list[int] = []
    while core.has_work:
        for _, item in core.step():
            if not isinstance(item, StepOutput):
                raise item
            ids += item.ids
    return ids


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    tokenizer = Tokenizer.open(NANO)
    special = tokenizer.special
    plain, rounded = (load_step_audio(NANO, device=torch.device("cpu"), dtype="float32") for _ in range(2))
    plain.prepare()
    rounded.prepare("int8")
    limits = CoreLimits(
        num_ids=tokenizer.num_ids,
        eos_ids=special.stop_ids,
        max_model_len=2048,
        kv_cache_tokens=4096,
        tts_max_wait=8,
    )
    core = ThinkerCore(plain, special, limits)
    prompt = [special.bot, *tokenizer.encode("assistant\n"), special.tts_start]
    errors, same, count = [], 0, 0
    for text in PROMPTS:
        ids = torch.tensor(prompt + speak(core, prompt, tokenizer.encode(text)))
        places = torch.arange(len(ids))
        expected, found = (
            model.logits(
                model.decode(model.embed_ids(ids), places, Alone()),
                special.audio_0,
                special.audio_padding + 1,
            )
            for model in (plain, rounded)
        )
        before_codes = torch.tensor([special.is_code(i) for i in ids[1:].tolist()] + [False])
        expected, found = expected[before_codes], found[before_codes]
        errors.append(float((found - expected).std() / expected.std()))
        same += int((found.argmax(-1) == expected.argmax(-1)).sum())
        count += len(found)
    print(f"logits: error {sum(errors) / len(errors):.3f} of their deviation")
    print(f"greedy codes that stay: {same / count:.3f} of {count}")


if __name__ == "__main__":
    main()
