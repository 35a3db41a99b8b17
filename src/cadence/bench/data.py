"""What the benchmark says: a fixed set of ten texts, or lines of a file."""

from __future__ import annotations

from pathlib import Path

from cadence.errors import ConfigError

__all__ = ["PROMPTS", "load_prompts"]

# From a short answer to a paragraph, as a voice assistant speaks them: about 1 to 12 s of speech.
PROMPTS = (
    "Good morning.",
    "The train leaves at nine.",
    "Yes, I can help you with that today.",
    "Please turn left at the next street and stop at the light.",
    "It is going to rain this afternoon, so take your coat with you.",
    "She put the letter on the table, opened the window, and looked at the garden for a long time.",
    "The best time to plant a tree was twenty years ago. The second best time is now.",
    "I read your message last night, and I think we should meet this week to talk about the plan.",
    "When the water is hot, add a little salt, wait for one minute, and then put in the rice. "
    "Keep the fire low and do not open the pot before ten minutes have passed.",
    "A small boat came down the river in the early light. Two men stood in it, and neither of them "
    "said a word. On the bank a dog ran along beside them until the trees stopped it, and then it "
    "sat down and watched them go.",
)


def load_prompts(path: Path | None) -> tuple[str, ...]:
    """The non-empty lines of a UTF-8 file, or `PROMPTS` when there is none.

    Raises:
        ConfigError: the file cannot be read or holds no text.
    """
    if path is None:
        return PROMPTS
    try:
        lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the prompts file {path}: {error}.", param="--prompts") from error
    if not lines:
        raise ConfigError(f"The prompts file {path} holds no text.", param="--prompts")
    return lines
