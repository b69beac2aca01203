"""Instructions that the threads of a warp execute together."""

import numpy as np

from ptx.program import Fault, Instruction, Unsupported
from ptx.registers import Array, Mask, Registers, Step

_REDUCED = {"max": np.maximum, "min": np.minimum, "add": np.add, "and": np.bitwise_and, "or": np.bitwise_or}


class Warps(Registers):
    """Exchange between the threads of a warp.

    Attributes:
        active: The threads that run now, (lanes,) bool.
        lanes: How many threads there are.
    """

    active: Array
    lanes: int

    def where(self, mask: Mask) -> Array:
        """The threads that take a step."""
        return np.flatnonzero(self.active if mask is True else mask)

    def check_whole(self, mask: Mask, members: Array, by: Instruction) -> None:
        """All threads that a member mask names have to be there, and no other.

        Raises:
            Fault: If they are not.
        """
        present = (self.active if mask is True else mask).reshape(-1, 32)
        named = np.broadcast_to(members, (self.lanes,)).reshape(-1, 32) >> np.arange(32, dtype=np.uint32) & 1 != 0
        if (named != present)[present.any(1)].any():
            raise Fault(f"{by}: threads of the warp that take part are elsewhere")

    def op_shfl(self, instruction: Instruction) -> Step:
        mode, (out, *args) = instruction.parts[2], instruction.args
        if mode not in ("bfly", "idx"):
            raise Unsupported(mode)
        written = self.registers[(out[1] if out[0] == "pair" else out)[1]]
        flag = self.registers[out[2][1]] if out[0] == "pair" else None
        value, by, clamp, members = (self.bits(x, 32) for x in args)

        def step(mask: Mask) -> None:
            self.check_whole(mask, members, instruction)
            lane = self.special["%laneid"].astype(np.int64)
            other, segment = (by & 31).astype(np.int64), (clamp >> np.uint32(8) & 31).astype(np.int64)
            last = (lane & segment) | ((clamp & 31).astype(np.int64) & ~segment)
            source = lane ^ other if mode == "bfly" else (lane & segment) | (other & ~segment)
            exists = source <= last
            source = np.where(exists, source, lane)
            found = np.broadcast_to(value, (self.lanes,))[np.arange(self.lanes) // 32 * 32 + source]
            np.copyto(written, found, where=mask)
            if flag is not None:
                np.copyto(flag, exists, where=mask)

        return step

    def op_redux(self, instruction: Instruction) -> Step:
        (how, kind), (out, value, members) = instruction.parts[2:], instruction.args
        written, named = self.output(out, kind), self.bits(members, 32)
        value = self.numbers(value, kind)

        def step(mask: Mask) -> None:
            self.check_whole(mask, named, instruction)
            found = _REDUCED[how].reduce(np.broadcast_to(value, (self.lanes,)).reshape(-1, 32), axis=1)
            np.copyto(written, np.repeat(found, 32), where=mask)

        return step
