"""Names for the content of KV blocks, by which a later prompt finds what was computed before.

Keys and values of a token depend on everything before it. So a block's key is a digest of the key before
it, the block's ids and, where patches of sound lie in it, the digest of that sound and the place within
it. Equal keys mean equal content; digests of 256 bits do not collide by chance or by intent.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np

from cadence.types import AudioSpan, Prompt

__all__ = ["PrefixKeys", "audio_digests"]

_DIGEST_BYTES = 32


def audio_digests(prompt: Prompt) -> tuple[bytes, ...]:
    """A digest of each piece of sound in a prompt; about 1 ms for 25 s."""
    return tuple(
        blake2b(np.ascontiguousarray(mel).data, digest_size=_DIGEST_BYTES, person=b"mel").digest()
        for mel in prompt.mels
    )


class PrefixKeys:
    """The keys of one sequence's full blocks, each computed once, when it is first asked for.

    Args:
        spans: where sound lies in the sequence, in order.
        digests: of the sound of each span.
        block_size: ids in a block.
    """

    def __init__(self, spans: Sequence[AudioSpan], digests: Sequence[bytes], block_size: int) -> None:
        self._spans = tuple(zip(spans, digests, strict=True))
        self._block_size = block_size
        self._keys: list[bytes] = []

    def of(self, ids: Sequence[int], num_blocks: int) -> Iterator[bytes]:
        """Keys of the first `num_blocks` blocks; `ids` must begin with those of earlier calls."""
        for number in range(num_blocks):
            if number == len(self._keys):
                self._keys.append(self._digest(ids, number))
            yield self._keys[number]

    def _digest(self, ids: Sequence[int], number: int) -> bytes:
        first, last = number * self._block_size, (number + 1) * self._block_size
        digest = blake2b(digest_size=_DIGEST_BYTES)
        if number:
            digest.update(self._keys[number - 1])
        digest.update(array("i", ids[first:last]).tobytes())
        for span, sound in self._spans:
            if span.start < last and span.start + span.count > first:
                digest.update(sound + (first - span.start).to_bytes(8, "big", signed=True))
        return digest.digest()
