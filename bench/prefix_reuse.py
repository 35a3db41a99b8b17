"""What a long conversation's next turn costs, with and without reuse of its history, side by side.

    python bench/prefix_reuse.py CHECKPOINT --turns 8 --sound-s 10 --answer-s 6

Each turn of the conversation is a recording; each answer is spoken (its ids are random codes and text:
time depends on their number alone). Both Thinkers share the weights and are asked in turns. Prefill is
measured from submission to the first id.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import time
from pathlib import Path

import numpy as np
import torch

from cadence.audio.features import PIECE_PADDING, log_mel
from cadence.models.step_audio import StepAudio, load_step_audio
from cadence.text import Tokenizer
from cadence.thinker.core import CoreLimits, ThinkerCore
from cadence.types import AudioSpan, Prompt, SamplingParams, StepOutput, ThinkerRequest

GROUPS_PER_SECOND = 6.25
RATE_HZ = 16_000


def make_core(model: StepAudio, tokenizer: Tokenizer, max_len: int, *, reuse: bool) -> ThinkerCore:
    """An engine with room for one conversation, twice."""
    limits = CoreLimits(
        num_ids=tokenizer.num_ids,
        eos_ids=tokenizer.special.stop_ids,
        max_model_len=max_len,
        kv_cache_tokens=2 * max_len,
        reuse_prefixes=reuse,
    )
    return ThinkerCore(model, tokenizer.special, limits)


def hear(prompt: Prompt, model: StepAudio, tokenizer: Tokenizer, seconds: float, seed: int) -> Prompt:
    """The prompt with one more recording (noise) and an opened answer."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ)).astype(np.float32) / 10
    mel = log_mel(noise, model.audio_config.n_mels, PIECE_PADDING)
    special, count = tokenizer.special, model.num_patches(mel.shape[1])
    head = [special.bot, *tokenizer.encode("human\n"), special.audio_start]
    tail = [special.audio_end, special.eot, special.bot, *tokenizer.encode("assistant\n"), special.tts_start]
    span = AudioSpan(len(prompt.ids) + len(head), count)
    ids = (*prompt.ids, *head, *[special.audio_patch] * count, *tail)
    return Prompt(ids=ids, spans=(*prompt.spans, span), mels=(*prompt.mels, mel))


def answer(tokenizer: Tokenizer, seconds: float, seed: int) -> tuple[int, ...]:
    """A spoken answer: groups of one text id and four codes."""
    rng, special = random.Random(seed), tokenizer.special
    ids = []
    for _ in range(round(seconds * GROUPS_PER_SECOND)):
        ids += [rng.randrange(256), *(special.id_of(rng.randrange(6561)) for _ in range(4))]
    return (*ids, special.tts_end, special.eot)


def prefill(core: ThinkerCore, prompt: Prompt, name: str) -> tuple[float, int]:
    """Seconds to the first id, and how many ids of the prompt were there already."""
    sampling = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    request = ThinkerRequest(request_id=name, prompt=prompt, sampling=sampling)
    begin = time.perf_counter()
    core.add(request, core.check(request))
    outputs = [item for _, item in core.step()]
    while core.has_work:
        outputs += [item for _, item in core.step()]
    took = time.perf_counter() - begin
    [output] = outputs
    if not isinstance(output, StepOutput):
        raise output
    return took, output.num_cached


def main() -> None:
    """Hold the conversation and print one line per turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--sound-s", type=float, default=10.0)
    parser.add_argument("--answer-s", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = Tokenizer.open(options.checkpoint)
    model = load_step_audio(options.checkpoint, device=torch.device("cpu"), dtype="float32")
    max_len = 64 + options.turns * int(16 + 12.5 * options.sound_s + 5 * GROUPS_PER_SECOND * options.answer_s)
    anew, reused = (make_core(model, tokenizer, max_len, reuse=reuse) for reuse in (False, True))
    prompt = Prompt(ids=tuple(tokenizer.encode("You are a helpful assistant.")))
    print("| turn | prompt tokens | reused | prefill anew | prefill with reuse | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for turn in range(1, options.turns + 1):
        prompt = hear(prompt, model, tokenizer, options.sound_s, turn)
        without, _ = prefill(anew, prompt, f"{turn}")
        with_reuse, num_cached = prefill(reused, prompt, f"{turn}")
        print(
            f"| {turn} | {len(prompt.ids)} | {num_cached} | {1000 * without:.0f} ms | "
            f"{1000 * with_reuse:.0f} ms | {without / with_reuse:.1f} |",
            flush=True,
        )
        prompt = dataclasses.replace(prompt, ids=prompt.ids + answer(tokenizer, options.answer_s, turn))
        prefill(reused, prompt, f"{turn}, answered")  # stands for writing the answer, not measured


if __name__ == "__main__":
    main()
