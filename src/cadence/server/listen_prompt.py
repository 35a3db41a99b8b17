"""What the model is told to do with a piece of sound: its own task prompts, with what the client knows."""

from __future__ import annotations

from collections.abc import Sequence

from cadence.server.languages import Language

__all__ = ["TRANSCRIBE", "listen_prompt"]

TRANSCRIBE = "请记录下你所听到的语音内容。"
"""The prompt of the model's training for recognition: "Write down the speech you hear." """
_TRANSLATE = "请仔细聆听这段语音，然后将其内容翻译成{language}。"  # that for speech translation


def listen_prompt(
    *,
    to: Language | None = None,
    spoken: Sequence[Language] = (),
    context: str | None = None,
    words: Sequence[str] = (),
) -> str:
    """The system prompt.

    Args:
        to: translate to this language; None = write down what is said as it is said.
        spoken: the languages that may be spoken.
        context: the client's `prompt`: what came before, or how to write.
        words: names and terms that may occur.
    """
    lines = [_TRANSLATE.format(language="英文" if to.code == "en" else to.chinese) if to else TRANSCRIBE]
    if spoken:
        lines.append(f"语音的语言是{'或'.join(language.chinese for language in spoken)}。")
    if words:
        lines.append(f"语音中可能出现这些词语：{'、'.join(words)}。")
    if context and context.strip():
        lines.append(f"参考上文：{context.strip()}")
    return "\n".join(lines)
