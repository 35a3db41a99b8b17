"""Accounting of KV memory in blocks of tokens: who holds which, how many are free. No tensors.

A full block may be published under a key that names its content (`thinker.prefix`). Several holders may
then share it, and when the last one lets go it stays findable until its place is needed: it counts as free.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable

__all__ = ["BlockPool"]


class BlockPool:
    """A fixed number of blocks, each holding keys and values of `block_size` tokens.

    A holder keeps its blocks in a list, in token order: token t lives in `blocks[t // block_size]`.
    Free blocks without a key are handed out first, the lowest first, so that a sequence running alone gets
    neighbours; then those with one, the longest unused first.
    """

    def __init__(self, num_blocks: int, block_size: int = 16) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_evictions = 0
        self._blank = list(range(num_blocks))  # free, without a key: a heap
        self._kept: OrderedDict[int, None] = OrderedDict()  # free, with a key: the oldest first
        self._num_holders = [0] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Blocks nobody holds."""
        return len(self._blank) + len(self._kept)

    @property
    def tokens_used(self) -> int:
        """Tokens that held blocks have room for."""
        return (self.num_blocks - self.num_free) * self.block_size

    @property
    def tokens_kept(self) -> int:
        """Tokens of free blocks whose content can still be reused."""
        return len(self._kept) * self.block_size

    @property
    def tokens_total(self) -> int:
        """Tokens that all blocks have room for."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that `num_tokens` tokens need."""
        return -(-num_tokens // self.block_size)

    def grow(self, blocks: list[int], num_tokens: int) -> bool:
        """Extend `blocks` to hold `num_tokens` tokens; False, and nothing taken, when too few are free."""
        missing = self.blocks_for(num_tokens) - len(blocks)
        if missing > self.num_free:
            return False
        for _ in range(missing):
            block = heapq.heappop(self._blank) if self._blank else self._evict()
            self._num_holders[block] = 1
            blocks.append(block)
        return True

    def release(self, blocks: list[int]) -> None:
        """Take all of a holder's blocks back and empty its list.

        The last is let go first: of one prefix, the part that most prompts share is evicted last.
        """
        for block in reversed(blocks):
            self._num_holders[block] -= 1
            if self._num_holders[block]:
                continue
            if block in self._key_of:
                self._kept[block] = None
            else:
                heapq.heappush(self._blank, block)
        blocks.clear()

    # -------------------------------------------------------------- reuse
    def publish(self, block: int, key: bytes) -> None:
        """Name the content of a held, full block; nothing may be written to it any more.

        The first block of a key keeps it: one that was computed beside it stays its holder's alone.
        """
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks of the longest run of `keys`, from the first on, that are all there."""
        found = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def num_free_among(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` nobody holds."""
        return sum(not self._num_holders[block] for block in blocks)

    def share(self, blocks: list[int], found: Iterable[int]) -> None:
        """Add what `find` gave to a holder's list."""
        for block in found:
            self._kept.pop(block, None)
            self._num_holders[block] += 1
            blocks.append(block)

    def _evict(self) -> int:
        block, _ = self._kept.popitem(last=False)
        del self._block_of[self._key_of.pop(block)]
        self.num_evictions += 1
        return block
