"""What the thinker is asked for: one request, or several where a text is too long to be read in one go."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from cadence.answers.plan import plan_request, with_seed
from cadence.answers.sentences import split_text
from cadence.prompt import PromptBuilder
from cadence.text import Tokenizer
from cadence.types import Message, Request, TextPart, ThinkerRequest

__all__ = ["MAX_PIECE_IDS", "Plan", "plan_answer"]

MAX_PIECE_IDS = 100
"""Text ids read in one go: half a minute of speech, as long as what such models are trained on."""

_IDS_PER_TEXT_ID = 14  # prompt and answer together, slow speech: a short context makes short pieces
_PROMPT_IDS = 32  # of roles and markers
_MAX_SEED = 2**63


@dataclass(frozen=True, slots=True)
class Plan:
    """The requests in order, and what stands around and between their texts (white space: shown, not spoken).

    `gaps` has one more entry than `requests`. `limit`: ids that all may take together.
    """

    requests: tuple[ThinkerRequest, ...]
    gaps: tuple[str, ...]
    limit: int | None = None


def plan_answer(
    request: Request,
    stage_id: str,
    *,
    tokenizer: Tokenizer,
    prompt_builder: PromptBuilder,
    max_model_len: int,
    default_max_tokens: int | None,
    single_sentences: bool = False,
) -> Plan:
    """Prompts and limits for an answer. Long audio takes a while to transform: call it in a thread.

    Args:
        request: checked by the engine.
        stage_id: the answer's name in the stages; pieces after the first add their number.
        default_max_tokens: see `plan_request`.
        single_sentences: the model reads one sentence at a time, because it was trained on such.

    Raises:
        PromptTooLong: a prompt, or one with its answer, does not fit the context.
        InvalidRequest: the messages cannot be written, or there is nothing to speak.
    """
    request = dataclasses.replace(request, request_id=stage_id, sampling=with_seed(request.sampling))

    def plan(part: Request) -> ThinkerRequest:
        messages, forced = part.messages, None
        if part.verbatim is not None:
            forced = tokenizer.encode(part.verbatim)
            if _only_instructs(messages):
                messages = prompt_builder.speech_messages(part.verbatim, _instructions(messages))
        prompt = prompt_builder.build(messages, part.output, turn=part.turn, call=part.call)
        return plan_request(
            part, prompt, forced, max_model_len=max_model_len, default_max_tokens=default_max_tokens
        )

    texts, gaps = _pieces(request, tokenizer, max_model_len, single_sentences)
    if len(texts) < 2:
        return Plan((plan(request),), ("", ""))
    sampling = request.sampling
    parts = (
        dataclasses.replace(
            request,
            request_id=f"{stage_id}-{number}" if number else stage_id,
            verbatim=text,
            sampling=dataclasses.replace(
                sampling, max_tokens=None, seed=((sampling.seed or 0) + number) % _MAX_SEED
            ),
        )
        for number, text in enumerate(texts)
    )
    return Plan(tuple(map(plan, parts)), tuple(gaps), sampling.max_tokens)


def _pieces(
    request: Request, tokenizer: Tokenizer, max_model_len: int, single_sentences: bool
) -> tuple[list[str], list[str]]:
    """The texts to read one by one and the gaps around them; no texts = it is read in one go."""
    text = request.verbatim
    if text is None or not _only_instructs(request.messages):
        return [], []

    def count(part: str) -> int:
        return len(tokenizer.encode(part))

    room = max_model_len - _PROMPT_IDS - count(_instructions(request.messages) or "")
    texts: list[str] = []
    gaps = [""]
    limit = max(1, min(MAX_PIECE_IDS, room // _IDS_PER_TEXT_ID))
    for piece in split_text(text, limit, count, single_sentences=single_sentences):
        core = piece.strip()
        if not core:
            gaps[-1] += piece
            continue
        at = piece.index(core)
        gaps[-1] += piece[:at]
        texts.append(core)
        gaps.append(piece[at + len(core) :])
    return texts, gaps


def _only_instructs(messages: Iterable[Message]) -> bool:
    """Whether the messages say how to read, and nothing else: each piece can then have them before it."""
    return all(message.role == "system" for message in messages)


def _instructions(messages: Iterable[Message]) -> str | None:
    """The text of system messages: how to read."""
    parts = [part.text for message in messages for part in message.content if isinstance(part, TextPart)]
    return "\n".join(parts) or None
