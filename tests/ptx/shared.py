"""The shared memory of all blocks of threads that run together, with a detector of races."""

from typing import Any

import numpy as np

from ptx.program import Fault, Instruction

Array = np.ndarray[Any, Any]

SHARED_BASE = 0x400  # its address
_UNWRITTEN = np.uint32(0x7FC0BEEF)  # NaN in float32, in bfloat16 in every second place


class Shared:
    """Bytes of each block, and who touched them since the block's last barrier.

    Args:
        num_bytes: Of a block.
        blocks: How many run.
        warps: Of a block.
        races: Whether to look for races.
    """

    def __init__(self, num_bytes: int, blocks: int, warps: int, races: bool) -> None:
        self._num_bytes, self._races = num_bytes, races
        self._size = (num_bytes + 15) // 16 * 16
        total = blocks * self._size
        self._bytes = np.full(max(total, 16) // 4, _UNWRITTEN).view(np.uint8)
        self.accesses = 0
        self.barriers = np.zeros(blocks, np.int64)  # that a block has passed
        self.warp_barriers = np.zeros((blocks, warps), np.int64)
        self._writer = np.full(total, -1, np.int64)  # thread of the block,
        self._written = np.full(total, -1, np.int64)  # barriers that it had passed
        self._written_in_warp = np.full(total, -1, np.int64)
        self._readers = np.zeros(total, np.int64)  # a bit for each warp,
        self._read = np.full(total, -1, np.int64)  # and the barriers

    def load(self, blocks: Array, threads: Array, addresses: Array, size: int, by: Instruction) -> Array:
        """``size`` bytes of each address, (threads, size); ``threads`` are numbers within their blocks.

        Raises:
            Fault: If an access may not be.
        """
        index = self._index(blocks, addresses, size, by)
        if self._races:
            self._watch_read(index, self.barriers[blocks, None], blocks, threads, by)
        return self._bytes[index]

    def store(self, blocks: Array, threads: Array, addresses: Array, rows: Array, by: Instruction) -> None:
        """Write a row of bytes to each address.

        Raises:
            Fault: If an access may not be.
        """
        index = self._index(blocks, addresses, rows.shape[1], by)
        if self._races:
            self._watch_write(index, self.barriers[blocks, None], blocks, threads, rows, by)
        self._bytes[index] = rows
        if (self._bytes[index] != rows).any():
            raise Fault(f"{by}: two threads write different values to one shared address")

    def _index(self, blocks: Array, addresses: Array, size: int, by: Instruction) -> Array:
        self.accesses += len(addresses)
        offset = addresses.astype(np.int64) - SHARED_BASE
        if (offset < 0).any() or (offset + size > self._num_bytes).any():
            raise Fault(f"{by}: shared memory at byte {offset.min()} to {offset.max()} of {self._num_bytes}")
        if (offset % size).any():
            raise Fault(f"{by}: shared address is not aligned to {size} bytes")
        return (blocks * self._size + offset)[:, None] + np.arange(size)

    def _watch_read(self, index: Array, now: Array, blocks: Array, threads: Array, by: Instruction) -> None:
        warp, writer = (threads // 32)[:, None], self._writer[index]
        fresh = self._written[index] == now
        if (fresh & (writer // 32 != warp)).any():
            raise Fault(f"{by}: race, reads what another warp writes with no barrier in between")
        in_step = self._written_in_warp[index] == self.warp_barriers[blocks, threads // 32][:, None]
        if (fresh & in_step & (writer != threads[:, None])).any():
            raise Fault(f"{by}: race, reads what another thread of the warp writes with no barrier in between")
        self._readers[index] = np.where(self._read[index] == now, self._readers[index], 0)
        self._read[index] = now
        np.bitwise_or.at(self._readers, index, np.broadcast_to(np.int64(1) << warp, index.shape))

    def _watch_write(
        self, index: Array, now: Array, blocks: Array, threads: Array, rows: Array, by: Instruction
    ) -> None:
        warp = (threads // 32)[:, None]
        if ((self._read[index] == now) & ((self._readers[index] & ~(np.int64(1) << warp)) != 0)).any():
            raise Fault(f"{by}: race, writes what another warp reads with no barrier in between")
        by_another = (self._written[index] == now) & (self._writer[index] // 32 != warp)
        if (by_another & (self._bytes[index] != rows)).any():
            raise Fault(f"{by}: race, writes what another warp writes with no barrier in between")
        self._writer[index], self._written[index] = threads[:, None], now
        self._written_in_warp[index] = self.warp_barriers[blocks, threads // 32][:, None]
