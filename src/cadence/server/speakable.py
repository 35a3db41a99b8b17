"""Text as language models write it, made fit to be read aloud: no markup, no emoji. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

import emoji
from markdown_it import MarkdownIt
from markdown_it.token import Token

__all__ = ["without_emoji", "without_markdown"]

_PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_GAP = re.compile(r"[ \t]{2,}")
_LOOSE_MARK = re.compile(r"[ \t]+([.,!?;:…])")


def without_markdown(text: str) -> str:
    """What a reader would say of Markdown: headings, items, links and emphasis as plain text, a line each.

    Code blocks, HTML and the addresses behind links are left out; so are rules and the frames of tables.
    """
    return "\n".join(line for line in _lines(_PARSER.parse(text)) if line.strip())


def without_emoji(text: str) -> str:
    """The text without emoji, and without the gaps they leave."""
    cleaned = emoji.replace_emoji(text, "")
    if cleaned == text:
        return text
    return _LOOSE_MARK.sub(r"\1", _GAP.sub(" ", cleaned)).strip()


def _lines(tokens: list[Token]) -> Iterator[str]:
    """One line per block; the cells of a table's row share one."""
    cells: list[str] = []
    in_row = False
    for token in tokens:
        if token.type == "tr_open":
            in_row = True
        elif token.type == "tr_close":
            yield ", ".join(cell for cell in cells if cell)
            cells, in_row = [], False
        elif token.type == "inline":
            line = "".join(map(_said, token.children or ()))
            if in_row:
                cells.append(line.strip())
            else:
                yield line


def _said(token: Token) -> str:
    if token.type in ("text", "code_inline", "image"):  # of an image, its description
        return token.content
    return "\n" if token.type in ("softbreak", "hardbreak") else ""
