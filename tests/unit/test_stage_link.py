"""The engine's end of a stage's socket: how outputs are let through."""

from __future__ import annotations

import asyncio

import pytest

from cadence.runtime.link import StageLink
from cadence.runtime.wire import Frame, encode_output
from cadence.types import Prompt, SamplingParams, SpeechRequest, StepOutput, ThinkerRequest

REQUESTS = {
    "thinker": ThinkerRequest(request_id="t", prompt=Prompt(ids=(1,)), sampling=SamplingParams()),
    "token2wav": SpeechRequest(request_id="s"),
}


class _Wire(StageLink):
    """A link whose frames are kept instead of sent."""

    def __init__(self, name: str) -> None:
        self.sent: list[Frame] = []
        super().__init__(name, asyncio.StreamReader(), None, lambda text, fraction: None)  # type: ignore[arg-type]

    def send(self, frame: Frame) -> None:
        self.sent.append(frame)


@pytest.mark.parametrize("name", sorted(REQUESTS))
async def test_credit_goes_back_in_few_frames_and_never_runs_out_for_a_reader(name: str) -> None:
    link, num_outputs = _Wire(name), 300
    stream = link.open(REQUESTS[name])
    window = link.sent[0]["credit"]
    outputs = aiter(stream.outputs())
    for number in range(num_outputs):
        given = window + sum(frame["count"] for frame in link.sent if frame["t"] == "credit")
        assert number < given <= number + window  # the stage may send this one, and is not too far ahead
        stream.add(encode_output(StepOutput((number,), None)))
        output = await anext(outputs)
        assert isinstance(output, StepOutput) and output.ids == (number,)
    num_frames = sum(frame["t"] == "credit" for frame in link.sent)
    assert num_frames <= num_outputs * 4 / window + 1
