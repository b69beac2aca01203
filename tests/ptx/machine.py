"""Executes PTX: all threads of a grid at once as lanes of NumPy arrays.

Threads have a program counter each. Of those that are scheduled, the ones at the smallest basic block run, so that
they meet again behind a branch. Between barriers a block of threads runs its warps one after the other, or some at a
time, in a random order.
"""

import numpy as np

from ptx.accesses import Accesses
from ptx.arithmetic import Arithmetic
from ptx.bits import Bits
from ptx.conversions import Conversions
from ptx.memory import Memory
from ptx.program import Fault, Instruction, Program, Unsupported
from ptx.registers import Array, Mask, Step
from ptx.shared import Shared

_MOST_LANES = 1 << 15  # that run together
_ENDS_BLOCK = ("bra", "ret", "bar")


class Machine(Arithmetic, Bits, Conversions, Accesses):
    """One program; ``launch`` runs a grid.

    Args:
        program: To run.
        shared_bytes: Of a block of threads.
        num_threads: Of a block.
    """

    def __init__(self, program: Program, shared_bytes: int, num_threads: int) -> None:
        self.program, self.num_threads, self._shared_bytes = program, num_threads, shared_bytes
        instructions = program.instructions
        targets = {x.args[0][1] for x in instructions if x.parts[0] == "bra"}
        starts = {0, *(program.labels[name] for name in targets)}
        starts |= {n + 1 for n, x in enumerate(instructions) if x.parts[0] in _ENDS_BLOCK and "warp" not in x.parts}
        order = sorted(x for x in starts if x < len(instructions))
        ends = [*order[1:], len(instructions)]
        self._basic_blocks = [instructions[a:b] for a, b in zip(order, ends, strict=True)]
        self._targets = {name: order.index(program.labels[name]) for name in targets}

    def launch(
        self,
        grid: tuple[int, int, int],
        values: dict[str, int],
        memory: Memory,
        *,
        seed: int,
        salt: int,
        together: int,
        races: bool,
    ) -> int:
        """Run the grid; returns the number of accesses of threads to memory, all of them checked.

        Args:
            grid: Blocks along x, y and z.
            values: Of the parameters, as bits.
            memory: Of the arguments.
            seed: Of the order of blocks and warps.
            salt: Of the errors of approximate instructions; 0 for correctly rounded results.
            together: Warps of a block that run at a time.
            races: Whether to look for races in shared memory.

        Raises:
            Fault: If the program does what must not be.
        """
        self.values, self.memory, self.salt = values, memory, salt
        self._random, self._together = np.random.default_rng(seed), together
        accesses = 0
        numbers = self._random.permutation(grid[0] * grid[1] * grid[2])
        count = max(1, _MOST_LANES // self.num_threads)
        with np.errstate(all="ignore"):
            for first in range(0, len(numbers), count):
                some = numbers[first : first + count]
                self.shared = Shared(self._shared_bytes, len(some), self.num_threads // 32, races)
                self._run_blocks(grid, some)
                accesses += self.shared.accesses
        return accesses + memory.accesses

    def _run_blocks(self, grid: tuple[int, int, int], numbers: Array) -> None:
        """Run the blocks of threads of these numbers to their end."""
        threads, blocks = self.num_threads, len(numbers)
        self.lanes = threads * blocks
        self.threads, self.blocks = np.tile(np.arange(threads), blocks), np.repeat(np.arange(blocks), threads)
        self.global_threads = np.repeat(numbers, threads) * threads + self.threads
        self.fill(grid, numbers, self._random)
        self._code = [[self._step(x) for x in block] for block in self._basic_blocks]
        self._place = np.zeros(self.lanes, np.int64)
        self._waiting, self._done = np.zeros(self.lanes, bool), np.zeros(self.lanes, bool)
        rank = self._random_ranks(blocks)
        while not self._done.all():
            runnable = ~(self._waiting | self._done).reshape(blocks, -1, 32).all(2)
            arrived = self._arrived(runnable)
            if arrived.any():
                self._waiting.reshape(blocks, threads)[arrived] = False
                self.shared.barriers[arrived] += 1
                self.shared.warp_barriers[arrived] += 1
                rank = np.where(arrived[:, None], self._random_ranks(blocks), rank)
                continue
            warps = rank.shape[1]
            order = np.where(runnable, rank, warps)
            last = np.sort(order, axis=1)[:, min(self._together, warps) - 1, None]
            self._run_scheduled(np.repeat((runnable & (order <= last)).reshape(-1), 32))

    def _random_ranks(self, blocks: int) -> Array:
        warps = np.arange(self.num_threads // 32)
        return self._random.permuted(np.tile(warps, (blocks, 1)), axis=1)

    def _arrived(self, runnable: Array) -> Array:
        """The blocks whose threads all wait at one barrier."""
        waiting, places = (x.reshape(len(runnable), -1) for x in (self._waiting, self._place))
        arrived = ~runnable.any(1) & waiting.any(1)
        if not waiting[arrived].all():
            raise Fault("a barrier that not all threads of the block reach")
        if (places[arrived] != places[arrived][:, :1]).any():
            raise Fault("threads of a block wait at different barriers")
        return arrived

    def _run_scheduled(self, scheduled: Array) -> None:
        """Run threads up to a barrier or their end."""
        while (active := scheduled & ~self._waiting & ~self._done).any():
            place = self._place[active].min()
            if place == len(self._code):
                raise Fault("the program ends without a return")
            self.active = active & (self._place == place)
            self._next = np.full(self.lanes, place + 1)
            mask = True if self.active.all() else self.active
            for step in self._code[place]:
                step(mask)
            np.copyto(self._place, self._next, where=mask)

    def _step(self, instruction: Instruction) -> Step:
        build = getattr(self, f"op_{instruction.parts[0]}", None)
        if build is None:
            raise Unsupported(f"{instruction}: no such instruction")
        try:
            step = build(instruction)
        except Unsupported as error:
            raise Unsupported(f"{instruction}: {error}") from None
        if instruction.guard is None:
            return step
        register, negated = instruction.guard
        predicate = self.registers[register]

        def guarded(mask: Mask) -> None:
            holds = ~predicate if negated else predicate
            step(holds if mask is True else mask & holds)

        return guarded

    def op_bra(self, instruction: Instruction) -> Step:
        target = self._targets[instruction.args[0][1]]
        return lambda mask: np.copyto(self._next, target, where=mask)

    def op_ret(self, instruction: Instruction) -> Step:
        def step(mask: Mask) -> None:
            self._done[self.where(mask)] = True

        return step

    def op_bar(self, instruction: Instruction) -> Step:
        parts, args = instruction.parts, instruction.args
        if parts[1] == "warp":
            return self._warp_barrier()
        whole = ("imm", 0), ("imm", self.num_threads)
        if parts[1] != "sync" or any(x != y for x, y in zip(args, whole, strict=False)):
            raise Unsupported("barrier of a part of the block")

        def step(mask: Mask) -> None:
            self._waiting[self.where(mask)] = True

        return step

    def _warp_barrier(self) -> Step:
        def step(mask: Mask) -> None:
            lanes = self.where(mask)
            warps = np.unique(self.blocks[lanes] * (self.num_threads // 32) + self.threads[lanes] // 32)
            self.shared.warp_barriers.reshape(-1)[warps] += 1

        return step

    def op_nop(self, instruction: Instruction) -> Step:
        """Do nothing: in the place of an instruction that a defect leaves out."""
        return lambda mask: None
