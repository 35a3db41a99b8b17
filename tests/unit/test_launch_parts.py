"""What a server assumes when nobody says: sampling defaults, seeds and lengths."""

from __future__ import annotations

import pytest

from cadence.answers.plan import num_speech_ids, plan_request, with_seed
from cadence.errors import ConfigError, PromptTooLong
from cadence.runtime.sampling_defaults import BUILT_IN, sampling_defaults
from cadence.types import Prompt, Request, SamplingParams


def test_defaults_are_laid_over_each_other() -> None:
    assert sampling_defaults({}, {})["speech"] == BUILT_IN
    file = {"temperature": 0.3, "top_k": 5, "max_new_tokens": 77, "eos_token_id": 1, "top_p": None}
    both = sampling_defaults(file, {"temperature": 0.9, "stop": ["x"], "seed": 42})
    assert both["text"] == SamplingParams(
        temperature=0.9, top_k=5, top_p=0.9, repetition_penalty=1.05, max_tokens=77, stop=("x",), seed=42
    )
    assert sampling_defaults({"do_sample": False}, {})["text"].temperature == 0.0
    with pytest.raises(ConfigError) as caught:
        sampling_defaults({}, {"temprature": 1})
    assert caught.value.param == "default_sampling.temprature"


def test_a_seed_is_drawn_only_when_none_was_asked_for() -> None:
    assert with_seed(SamplingParams(seed=3)).seed == 3
    drawn = {with_seed(SamplingParams()).seed for _ in range(8)}
    assert None not in drawn and len(drawn) == 8


def test_verbatim_length_is_bounded_by_the_text_and_by_the_context() -> None:
    request = Request(request_id="r", messages=(), output="speech", verbatim="x")
    prompt = Prompt(ids=tuple(range(100)))
    plan = plan_request(request, prompt, range(10), max_model_len=16384)
    assert plan.sampling.max_tokens == num_speech_ids(10) > 50
    assert plan_request(request, prompt, range(20), max_model_len=220).sampling.max_tokens == 120
    with pytest.raises(PromptTooLong):
        plan_request(request, prompt, range(25), max_model_len=220)
    with pytest.raises(PromptTooLong):
        plan_request(request, prompt, None, max_model_len=100)
