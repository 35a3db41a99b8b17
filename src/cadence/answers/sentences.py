"""A long text cut into pieces to be read one by one: at sentences, else at clauses, else at words. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

__all__ = ["split_text"]

# Where a reader may take breath, best first; a cut comes behind the match. Full stops inside numbers,
# initials and the usual abbreviations are none: those need white space after them, or are excluded.
_CLOSERS = r"[\"'”’)\]»」』）]*"
_BREAKS = (
    re.compile(r"\s*\n\s*"),
    re.compile(
        rf"(?<![\s.][A-Z])(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\bvs)(?<!e\.g)(?<!i\.e)"
        rf"[.!?…]+{_CLOSERS}\s+|[。！？…]+{_CLOSERS}\s*"
    ),
    re.compile(rf"[;:,]{_CLOSERS}\s+|\s[–—-]+\s|[；：，、—]+{_CLOSERS}\s*"),
    re.compile(r"\s+"),
)


_SENTENCES, _CLAUSES = 1, 2  # levels of `_BREAKS`; level 0 is lines


def split_text(
    text: str, limit: int, count: Callable[[str], int], *, single_sentences: bool = False
) -> list[str]:
    """Pieces that join to `text`, each with at most `limit` of what `count` counts.

    Every piece is as long as it can be, so that few joints are heard; with `single_sentences`, no longer than
    one sentence. A piece may be longer than the limit only where a single character is.

    Args:
        text: anything; white space stays with the piece before it.
        limit: at least 1.
        count: the size of a text, tokens say.
    """
    if not single_sentences:
        return list(_pack(text, limit, count, 0))
    sentences = [sentence for line in _parts(text, 0) for sentence in _parts(line, _SENTENCES)]
    return [piece for sentence in sentences for piece in _pack(sentence, limit, count, _CLAUSES)]


def _pack(text: str, limit: int, count: Callable[[str], int], level: int) -> Iterator[str]:
    """Join what the breaks of one level give into pieces within the limit; go a level down for the rest."""
    if count(text) <= limit or len(text) == 1:
        yield text
        return
    held, size = "", 0
    for part in _parts(text, level):
        num = count(part)
        if held and size + num > limit:
            yield held
            held, size = "", 0
        if num > limit and len(part) > 1:
            *whole, held = _pack(part, limit, count, level + 1)
            yield from whole
            size = count(held)
        else:
            held, size = held + part, size + num
    if held:
        yield held


def _parts(text: str, level: int) -> Iterator[str]:
    """The text cut behind every break of a level; below the last level, in single characters."""
    if level >= len(_BREAKS):
        yield from text
        return
    start = 0
    for found in _BREAKS[level].finditer(text):
        if found.end() > start:
            yield text[start : found.end()]
            start = found.end()
    if start < len(text):
        yield text[start:]
