"""Messages to the prompt that the model was trained on: ids, with a log-mel for each piece of sound.

    chat    <|BOT|>{role}\\n{content}<|EOT|> per message (user is called human), then <|BOT|>assistant\\n
    think   as chat; a text answer starts inside its reasoning: ...assistant\\n\\n<think>\\n
    base    the contents one after the other, no roles

A spoken answer starts with `<tts_start>`; one of an earlier turn is written as `interleave` has it. Sound
is cut into pieces of 25 s, each written as `<audio_start>`, one `<audio_patch>` per embedding,
`<audio_end>`. Only this module and `interleave` write control ids; what a caller wrote is spelled out as
ordinary text, piece by piece as the reference does, so that no merge crosses from one content item into
the next.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from cadence.audio.features import PIECE_PADDING, log_mel, num_patches
from cadence.errors import InvalidAudio, InvalidRequest, PromptTooLong
from cadence.interleave import interleave, repeat_speech
from cadence.text import Tokenizer
from cadence.tokens import TEXT_MARKERS
from cadence.types import (
    INPUT_RATE_HZ,
    AudioPart,
    AudioSpan,
    Message,
    Part,
    Prompt,
    ReasoningPart,
    RepeatPart,
    SpeechPart,
    TextPart,
)

if TYPE_CHECKING:
    from cadence.types import Waveform

__all__ = [
    "MIN_AUDIO_S",
    "READ_ALOUD_PROMPT",
    "PromptBuilder",
    "Variant",
    "detect_variant",
    "strip_tts_start",
]

Variant = Literal["chat", "base", "think"]
Turn = Literal["new", "continue", "none"]

READ_ALOUD_PROMPT = "以自然的语速读出下面的文字。\n"
"""The system prompt of /v1/audio/speech: "Read the text below at a natural pace." """

MIN_AUDIO_S = 0.1
_PIECE_SAMPLES = 25 * INPUT_RATE_HZ
_HOP_SAMPLES = INPUT_RATE_HZ // 100  # a frame of log-mel every 10 ms
_TTS_START = "<tts_start>"
_ROLE_NAMES = {"user": "human"}
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_ANSWERING = ("user", "human", "assistant")


def detect_variant(*names: str) -> Variant:
    """The variant that a model id or folder name tells: `...-Base`, `...-Think`, else chat.

    Only the last part of a path counts; earlier names win.
    """
    for name in names:
        words = re.split(r"[^a-z]+", name.rstrip("/\\").replace("\\", "/").rpartition("/")[2].lower())
        if "think" in words:
            return "think"
        if "base" in words:
            return "base"
    return "chat"


def strip_tts_start(messages: Sequence[Message]) -> tuple[tuple[Message, ...], bool]:
    """Take the literal `<tts_start>` off the end of the last user or assistant message's text.

    Existing clients ask for speech this way. An assistant message that held nothing else is dropped.

    Returns:
        The messages without it, and whether it was there.
    """
    kept = list(messages)
    last = next((i for i in reversed(range(len(kept))) if kept[i].role in _ANSWERING), None)
    if last is None:
        return tuple(kept), False
    content = list(kept[last].content)
    at = next((i for i in reversed(range(len(content))) if isinstance(content[i], TextPart)), None)
    part = content[at] if at is not None else None
    if at is None or not isinstance(part, TextPart) or not part.text.rstrip().endswith(_TTS_START):
        return tuple(kept), False
    text = part.text.rstrip().removesuffix(_TTS_START)
    content[at] = TextPart(text)
    if not text and len(content) > 1:
        del content[at]
    if kept[last].role == "assistant" and not text and len(content) == 1:
        del kept[last]
    else:
        kept[last] = dataclasses.replace(kept[last], content=tuple(content))
    return tuple(kept), True


@dataclass(slots=True)
class _Draft:
    """A prompt being written; features come last, once the length is known to be fine."""

    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    spans: list[AudioSpan] = field(default_factory=list)
    pieces: list[Waveform] = field(default_factory=list)

    def text(self, text: str) -> None:
        """One content item, tokenised on its own."""
        self.ids += self.tokenizer.encode(text)

    def marker(self, name: str) -> None:
        """A marker of `TEXT_MARKERS`: its id where the vocabulary has one, else spelled out."""
        token_id: int | None = getattr(self.tokenizer.special, name)
        if token_id is None:
            self.text(TEXT_MARKERS[name])
        else:
            self.ids.append(token_id)

    def part(self, part: Part, param: str) -> None:
        """Any content item; `param` names it in errors."""
        special = self.tokenizer.special
        if isinstance(part, TextPart):
            self.text(part.text)
        elif isinstance(part, AudioPart):
            self.audio(part.samples, param)
        elif isinstance(part, SpeechPart):
            self.ids += interleave(special, self.tokenizer.encode(part.text), part.codes)
        elif isinstance(part, RepeatPart):
            self.ids += repeat_speech(special, part.ids)
        elif isinstance(part, ReasoningPart):
            self.marker("think")
            self.text(f"\n{part.text.strip()}\n")
            self.marker("think_end")
            self.text("\n\n")
        else:
            self.marker("tool_call")
            self.text(f"function\n{part.name}\n{part.arguments}")
            self.marker("tool_call_end")

    def audio(self, samples: Waveform, param: str) -> None:
        """Sound in pieces of 25 s. A last piece too short for a single embedding is left out."""
        if samples.ndim != 1 or len(samples) < MIN_AUDIO_S * INPUT_RATE_HZ:
            raise InvalidAudio(
                f"The audio has {samples.shape[-1] / INPUT_RATE_HZ:.3f} s of sound; at least {MIN_AUDIO_S} s "
                "are needed.",
                param=param,
                code="audio_too_short",
            )
        special = self.tokenizer.special
        for start in range(0, len(samples), _PIECE_SAMPLES):
            piece = samples[start : start + _PIECE_SAMPLES]
            count = num_patches((len(piece) + PIECE_PADDING) // _HOP_SAMPLES)
            if count < 1:
                continue
            self.spans.append(AudioSpan(len(self.ids) + 1, count))
            self.pieces.append(piece)
            self.ids += [special.audio_start, *[special.audio_patch] * count, special.audio_end]


class PromptBuilder:
    """Builds prompts for one checkpoint. Stateless and safe to share between threads.

    Args:
        tokenizer: of the checkpoint.
        variant: which of the family it is; see `detect_variant`.
        num_mels: bins of the log-mel that the audio encoder reads.
        max_model_len: refuse a longer prompt before any features are computed; None = no limit here.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        variant: Variant = "chat",
        *,
        num_mels: int = 128,
        max_model_len: int | None = None,
    ) -> None:
        if variant not in get_args(Variant):
            raise ValueError(f"variant {variant!r} is not one of {get_args(Variant)}")
        self.tokenizer = tokenizer
        self.variant = variant
        self.num_mels = num_mels
        self.max_model_len = max_model_len

    def build(
        self,
        messages: Sequence[Message],
        output: Literal["text", "speech"],
        *,
        turn: Turn = "new",
        call: str | None = None,
    ) -> Prompt:
        """The prompt whose continuation is the answer. Costs some ms per second of sound.

        A message of one text is tokenised as one piece with its role, as the reference does with string
        content; of several parts, each is a piece. `turn` and `call` are those of `Request`.

        Raises:
            InvalidRequest: no messages, a bad role, or text that is not valid Unicode.
            InvalidAudio: sound shorter than `MIN_AUDIO_S`.
            PromptTooLong: more ids than `max_model_len`.
        """
        if not messages:
            raise InvalidRequest("There must be at least one message.", param="messages")
        draft = _Draft(self.tokenizer)
        for index, message in enumerate(messages):
            is_open = turn == "continue" and index == len(messages) - 1
            self._add_message(draft, message, f"messages.{index}", is_open=is_open)
        if turn == "new":
            self._open_answer(draft, output, call)
        elif output == "speech":
            draft.ids.append(self.tokenizer.special.tts_start)
        if self.max_model_len is not None and len(draft.ids) > self.max_model_len:
            raise PromptTooLong(
                f"The prompt has {len(draft.ids)} tokens, but the model's context is {self.max_model_len}.",
                param="messages",
            )
        mels = tuple(log_mel(piece, self.num_mels, PIECE_PADDING) for piece in draft.pieces)
        return Prompt(ids=tuple(draft.ids), spans=tuple(draft.spans), mels=mels)

    def speech_messages(self, text: str, instructions: str | None = None) -> tuple[Message, ...]:
        """The conversation that has `text` read aloud; `instructions` replaces the system prompt."""
        system = instructions if instructions and instructions.strip() else READ_ALOUD_PROMPT
        return (Message("system", (TextPart(system),)), Message("user", (TextPart(text),)))

    def _add_message(self, draft: _Draft, message: Message, param: str, *, is_open: bool) -> None:
        if not _ROLE.fullmatch(message.role):
            raise InvalidRequest(
                f"Role {message.role[:64]!r} is not a role name: letters, digits and underscores are.",
                param=f"{param}.role",
            )
        special, content = self.tokenizer.special, message.content
        head = "" if self.variant == "base" else f"{_ROLE_NAMES.get(message.role, message.role)}\n"
        if head and content and isinstance(content[0], ReasoningPart):
            head += "\n"  # as an answer that thinks is opened
        if head:
            draft.ids.append(special.bot)
        if len(content) == 1 and isinstance(content[0], TextPart):
            draft.text(head + content[0].text)
        else:
            draft.text(head)
            for number, part in enumerate(content):
                draft.part(part, f"{param}.content.{number}")
        if head and not is_open:
            draft.ids.append(special.eot)

    def _open_answer(self, draft: _Draft, output: str, call: str | None) -> None:
        special = self.tokenizer.special
        thinks = self.variant == "think" and output == "text" and call is None
        if self.variant != "base":
            draft.ids.append(special.bot)
            if not thinks:
                draft.text("assistant\n")
            elif special.think is None:
                draft.text("assistant\n\n<think>\n")
            else:
                draft.text("assistant\n\n")
                draft.ids.append(special.think)
                draft.text("\n")
        if output == "speech":
            draft.ids.append(special.tts_start)
        elif call is not None:
            draft.marker("tool_call")
            draft.text(f"function\n{call}\n" if call else "function\n")
