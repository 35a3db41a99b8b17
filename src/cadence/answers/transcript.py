"""From the thinker's ids to what a client sees: visible text, log-probabilities and speech codes. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from cadence.answers.stopping import StopMatcher
from cadence.answers.word_clock import WordClock
from cadence.router import TokenRouter
from cadence.text import Tokenizer
from cadence.types import CODES_PER_SECOND, StepOutput, TextDelta, TokenLogprob, WordTiming

__all__ = ["Transcript", "TranscriptPiece"]

Logprob = tuple[float, tuple[tuple[int, float], ...]]


@dataclass(frozen=True, slots=True)
class TranscriptPiece:
    """What one step added. `stop_match` is the stop string that ended the answer, if one did."""

    delta: TextDelta | None
    codes: Sequence[int]
    stop_match: str | None = None


class Transcript:
    """Routes, decodes and cuts one answer's ids, step by step.

    Text that may become a stop string and bytes of an unfinished character are held back; the
    log-probabilities of a token travel with the delta that shows the token's first character.

    Args:
        tokenizer: of the checkpoint.
        stops: strings that end the answer.
        skip_special: leave control tokens out of the text.
        with_codes: deltas carry the codes: beside new text, after every second of them, and at the end.
        with_words: deltas carry the words whose place in the sound is known.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        *,
        skip_special: bool = True,
        with_codes: bool = False,
        with_words: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._router = TokenRouter(tokenizer.special)
        self._detokenizer = tokenizer.detokenizer(skip_special=skip_special)
        self._with_codes = with_codes
        self._unsent_codes: list[int] = []
        self._clock = WordClock() if with_words else None
        self._words: list[WordTiming] = []
        self._stops = StopMatcher(stops)
        self._pending: deque[tuple[int, TokenLogprob]] = deque()  # (first character, token)
        self._num_chars = 0  # decoded so far
        self._num_shown = 0
        self.num_ids = 0
        """Ids seen, of every class."""
        self.output_ids: list[int] = []
        """The same without the one that stopped the answer."""
        self.num_codes = 0
        """Speech codes among them."""

    def push(self, step: StepOutput) -> TranscriptPiece:
        """Take one step's ids; after a stop match the rest of the step is dropped."""
        codes: list[int] = []
        text: list[str] = []
        match: str | None = None
        ids = step.ids
        shown = ids[:-1] if step.stop_match is not None and ids and ids[-1] == step.stop_match else ids
        for position, token_id in enumerate(shown):
            self.num_ids += 1
            self.output_ids.append(token_id)
            routed = self._router.push((token_id,))
            codes.extend(routed.codes)
            if not routed.text_ids:
                continue
            if position < len(step.logprobs) and not self._tokenizer.is_hidden(token_id):
                self._pending.append((self._num_chars, self._spell(token_id, step.logprobs[position])))
            new = self._detokenizer.push(routed.text_ids)
            self._num_chars += len(new)
            if self._clock is not None:
                self._words += self._clock.push(new, self.num_codes + len(codes))
            result = self._stops.push(new)
            text.append(result.text)
            if result.match is not None:
                match = result.match
                break
        else:
            self.num_ids += len(ids) - len(shown)
        self.num_codes += len(codes)
        if self._with_codes:
            self._unsent_codes += codes
        return TranscriptPiece(self._show("".join(text), ended=match is not None), codes, match)

    def add_text(self, text: str) -> TextDelta | None:
        """Text that nobody wrote or speaks: the white space between pieces."""
        self._num_chars += len(text)
        return self._show(self._stops.push(text).text)

    def end_piece(self, gap: str) -> TextDelta | None:
        """A piece of the answer is complete; `gap` stands behind it."""
        if self._clock is not None:
            self._words += self._clock.end_piece(self.num_codes)
        return self.add_text(gap)

    def flush(self) -> TextDelta | None:
        """What was held back, once the answer has ended without a stop match."""
        tail = self._stops.push(self._detokenizer.flush())
        held = tail.text if tail.match is not None else tail.text + self._stops.flush()
        return self._show(held, last=True, ended=True)

    def _show(self, text: str, *, last: bool = False, ended: bool = False) -> TextDelta | None:
        self._num_shown += len(text)
        logprobs = []
        while self._pending and (last or self._pending[0][0] < self._num_shown):
            logprobs.append(self._pending.popleft()[1])
        codes: tuple[int, ...] = ()
        if text or ended or len(self._unsent_codes) >= CODES_PER_SECOND:
            codes = tuple(self._unsent_codes)
            self._unsent_codes.clear()
        words = tuple(self._words)
        self._words.clear()
        if not (text or logprobs or codes or words):
            return None
        return TextDelta(text, tuple(logprobs), codes, words)

    def _spell(self, token_id: int, logprob: Logprob) -> TokenLogprob:
        chosen, top = logprob
        name = self._tokenizer.token_text
        return TokenLogprob(token_id, name(token_id), chosen, tuple((i, name(i), value) for i, value in top))
