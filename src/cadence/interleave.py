"""Speech of earlier turns as the model writes it: `<tts_start>`, groups of one text id and four audio ids,
`<tts_end>`.

Text slots without text hold `<tts_pad>`, audio slots without a code the padding after the last code. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from cadence.tokens import SpecialIds

__all__ = ["GROUP_CODES", "interleave", "repeat_speech"]

GROUP_CODES = 4
_GROUP_IDS = 1 + GROUP_CODES


def interleave(special: SpecialIds, text_ids: Sequence[int], codes: Sequence[int]) -> list[int]:
    """Ids of speech known by its text and its codes, markers included.

    There are as many groups as the longer of the two needs; the other is padded to fill them.

    Raises:
        ValueError: a code is not in 0..6560.
    """
    num_groups = max(len(text_ids), -(-len(codes) // GROUP_CODES))
    ids = [special.tts_start]
    for group in range(num_groups):
        ids.append(text_ids[group] if group < len(text_ids) else special.tts_pad)
        spoken = [special.id_of(code) for code in codes[group * GROUP_CODES : (group + 1) * GROUP_CODES]]
        ids += spoken + [special.audio_padding] * (GROUP_CODES - len(spoken))
    return [*ids, special.tts_end]


def repeat_speech(special: SpecialIds, ids: Sequence[int]) -> list[int]:
    """Ids of a spoken answer that this model wrote after `<tts_start>`, to stand in the history.

    They stay as they are, so that what was computed for them can be used again; speech that was cut
    short is brought to the end of its group and closed.
    """
    if special.tts_end in ids:
        return [special.tts_start, *ids]
    missing = -len(ids) % _GROUP_IDS
    return [special.tts_start, *ids, *[special.audio_padding] * missing, special.tts_end]
