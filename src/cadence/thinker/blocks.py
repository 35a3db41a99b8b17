"""Accounting of KV memory in blocks of tokens: who holds which, how many are free. No tensors."""

from __future__ import annotations

import heapq

__all__ = ["BlockPool"]


class BlockPool:
    """A fixed number of blocks, each holding keys and values of `block_size` tokens.

    A holder keeps its blocks in a list, in token order: token t lives in `blocks[t // block_size]`.
    The lowest free block is handed out first, so that a sequence running alone gets neighbours.
    """

    def __init__(self, num_blocks: int, block_size: int = 16) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks nobody holds."""
        return len(self._free)

    @property
    def tokens_used(self) -> int:
        """Tokens that held blocks have room for."""
        return (self.num_blocks - len(self._free)) * self.block_size

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
        if missing > len(self._free):
            return False
        for _ in range(missing):
            blocks.append(heapq.heappop(self._free))
        return True

    def release(self, blocks: list[int]) -> None:
        """Take all of a holder's blocks back and empty its list."""
        for block in blocks:
            heapq.heappush(self._free, block)
        blocks.clear()
