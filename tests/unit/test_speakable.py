"""What is left to say of Markdown and emoji."""

from __future__ import annotations

import pytest

from cadence.server.speakable import without_emoji, without_markdown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Plain text, 3 * 4 = 12.", "Plain text, 3 * 4 = 12."),
        ("# Title\n\nSome **bold** and *soft* `code`.", "Title\nSome bold and soft code."),
        ("- one\n- two\n  1. three", "one\ntwo\nthree"),
        ("See [the docs](https://example.com/a_b) and ![a cat](cat.png).", "See the docs and a cat."),
        ("Before\n\n```python\nprint(1)\n```\n\n---\n\nafter", "Before\nafter"),
        ("> quoted\n\n~~gone~~ <b>kept</b>", "quoted\ngone kept"),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n", "a, b\n1, 2"),
        ("你好，**世界**。", "你好，世界。"),
        ("snake_case_name stays", "snake_case_name stays"),
    ],
)
def test_markdown(text: str, said: str) -> None:
    assert without_markdown(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("No  change .", "No  change ."),
        ("Great 🎉!", "Great!"),
        ("👋🏽 Hi 👩‍👩‍👧 there ❤️", "Hi there"),
        ("1️⃣ first", "first"),
        ("😀", ""),
    ],
)
def test_emoji(text: str, said: str) -> None:
    assert without_emoji(text) == said
