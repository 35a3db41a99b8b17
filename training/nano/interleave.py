"""Speech as the Thinker writes it: groups of one text token and four codes, text placed where it is spoken.

All tokens of a word are written before the word starts, as late as that allows, one a group; the groups
between hold `<tts_pad>`. So the text in sight says what is due now, and the model need only keep its place
within a word.
"""

from __future__ import annotations

from collections.abc import Sequence

from cadence.text import Tokenizer

GROUP_S = 0.16
LEAD_S = 0.20  # the last token of a word lies 0.20 to 0.36 s before the word
CODES_PER_GROUP = 4


def words_of_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The written word (split at white space) that each token belongs to."""
    words, seen, word = [], False, 0
    for token_id in ids:
        text = tokenizer.token_bytes(token_id).decode("utf-8", "replace")
        if seen and text[:1].isspace():
            word += 1
        seen = seen or bool(text.strip())
        words.append(word)
    return words


def groups_of_tokens(words: Sequence[int], word_starts_s: Sequence[float]) -> list[int]:
    """The group each token is written in: strictly rising."""
    groups = [0] * len(words)
    following = 1 << 30
    for i in range(len(words) - 1, -1, -1):
        start = word_starts_s[min(words[i], len(word_starts_s) - 1)]
        following = groups[i] = min(int(max(0.0, start - LEAD_S) / GROUP_S), following - 1)
    for i in range(len(groups)):
        groups[i] = max(groups[i], groups[i - 1] + 1 if i else 0)
    return groups


def speech_ids(
    tokenizer: Tokenizer, text_ids: Sequence[int], groups: Sequence[int], codes: Sequence[int]
) -> list[int]:
    """Ids of a spoken answer after `<tts_start>`: the groups, `<tts_end>`, `<|EOT|>`.

    Raises:
        ValueError: the codes do not fill whole groups, or the text does not fit between them.
    """
    special = tokenizer.special
    num_groups = len(codes) // CODES_PER_GROUP
    if len(codes) % CODES_PER_GROUP or (groups and groups[-1] >= num_groups):
        raise ValueError(f"{len(text_ids)} text tokens do not fit {len(codes)} codes")
    written = dict(zip(groups, text_ids, strict=True))
    ids: list[int] = []
    for group in range(num_groups):
        ids.append(written.get(group, special.tts_pad))
        first = group * CODES_PER_GROUP
        ids += [special.audio_0 + code for code in codes[first : first + CODES_PER_GROUP]]
    return [*ids, special.tts_end, special.eot]
