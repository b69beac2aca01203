"""Launches of compiled kernels in the machine, in the place of Triton's launcher in C."""

import contextlib
import ctypes
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from ptx.machine import Machine
from ptx.memory import Memory, Storage
from ptx.parser import parse
from ptx.program import Fault, Program

# Arguments that each kernel writes.
OUTPUTS = {
    "fuzzy_positive_kernel": {"grad.ptr", "sums_ptr", "map_ptr"},
    "streamed_kernel": {"grad.ptr", "sums_ptr", "map_ptr"},
    "consistency_kernel": {"grad.ptr", "sums_ptr", "map_ptr"},
    "cross_entropy_kernel": {"grad.ptr", "sums_ptr", "map_ptr"},
    "upsampled_kernel": {"buffer_ptr", "sums_ptr", "map_ptr"},
    "column_adjoint_kernel": {"grad.ptr"},
    "scale_kernel": {"grad_ptr"},
    "mean_scale_kernel": {"counter_ptr", "reciprocal_ptr"},
    "finish_kernel": {"loss_ptr", "factor_ptr", "statistics_ptr"},
    "pseudo_labels_kernel": {"label_ptr", "confidence_ptr", "entropy_ptr", "positives_ptr"},
    "ranks_kernel": {"classes_ptr", "counts_ptr"},
    "context_kernel": {"chosen_ptr"},
}
IN_PLACE = {"scale_kernel", "mean_scale_kernel"}  # read what they write
# Launches that are a part of a call, or pass over what is not valid, do not fill these.
IN_PARTS = {
    "upsampled_kernel": {"buffer_ptr", "sums_ptr", "map_ptr"},
    "column_adjoint_kernel": {"grad.ptr"},
    "scale_kernel": {"grad_ptr"},  # a factor of 1
}


class Settings(NamedTuple):
    """Settings of launches."""

    seed: int = 0
    """Seed of the order of warps."""
    salt: int = 0
    """Seed of the errors of approximate instructions, 0 for none."""
    together: int = 1
    """Warps of a block that run at a time."""
    mutate: Callable[[Program], None] | None = None
    """Puts a defect into a program."""
    races: bool = True
    """Whether races in shared memory are looked for."""


class Launch(NamedTuple):
    """Record of a launch."""

    kernel: str
    accesses: int
    """Accesses of threads to memory, each of them checked."""


class Recorder:
    """The settings in force and the launches since the list was last cleared."""

    settings = Settings()
    launches: list[Launch]

    def __init__(self) -> None:
        self.launches = []

    @contextlib.contextmanager
    def using(self, settings: Settings) -> Iterator[None]:
        """Run launches like this for a while."""
        before, self.settings = self.settings, settings
        try:
            yield
        finally:
            self.settings = before


RECORDER = Recorder()
PTX: dict[str, str] = {}  # by the hash of what was compiled


class Launcher:
    """A compiled kernel's launcher, as Triton makes and calls it."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self._names, self._signature = source.fn.arg_names, source.signature
        self._kernel, self._metadata = source.fn.__name__, metadata
        self._machines: dict[Any, Machine] = {}

    def __call__(
        self,
        x: int,
        y: int,
        z: int,
        stream: Any,
        function: Any,
        packed: Any,
        launch_metadata: Any,
        enter: Any,
        leave: Any,
        *arguments: Any,
    ) -> None:
        if not (0 < x < 2**31 and 0 < y < 2**16 and 0 < z < 2**16):
            raise Fault(f"{self._kernel}: no device takes the grid {(x, y, z)}")
        machine, settings = self._machine(), RECORDER.settings
        memory = Memory()
        mapped = _Mapped(memory, OUTPUTS[self._kernel], self._kernel in IN_PLACE)
        values = _parameters(machine.program, self._flat(arguments), mapped)
        assert self._metadata.global_scratch_size == 0
        try:
            accesses = machine.launch(
                (x, y, z),
                values,
                memory,
                seed=settings.seed,
                salt=settings.salt,
                together=settings.together,
                races=settings.races,
            )
            mapped.check_filled(OUTPUTS[self._kernel] - IN_PARTS.get(self._kernel, set()))
        except Fault as fault:
            raise Fault(f"{self._kernel}[{x}, {y}, {z}]: {fault}") from None
        RECORDER.launches.append(Launch(self._kernel, accesses))

    def _machine(self) -> Machine:
        mutate = RECORDER.settings.mutate
        if mutate not in self._machines:
            program = parse(PTX[self._metadata.hash])
            threads = self._metadata.num_warps * 32
            assert program.num_threads in (0, threads)
            if mutate is not None:
                mutate(program)
            self._machines[mutate] = Machine(program, self._metadata.shared, threads)
        return self._machines[mutate]

    def _flat(self, arguments: tuple[Any, ...]) -> list[tuple[str, str, Any]]:
        """Names, types and values of all that is passed: the fields of operands are parameters of their own."""
        found = []

        def flatten(name: str, kind: Any, value: Any) -> None:
            if isinstance(kind, tuple):
                fields = getattr(kind, "_fields", range(len(kind)))
                for field, of_field, x in zip(fields, kind, value, strict=True):
                    flatten(f"{name}.{field}", of_field, x)
            elif kind != "constexpr":
                found.append((name, kind, value))

        for name, value in zip(self._names, arguments, strict=True):
            flatten(name, self._signature[name], value)
        return found


class _Mapped:
    """The tensors of a launch in its memory.

    Args:
        memory: Of the launch.
        outputs: Names of arguments that may be written.
        in_place: Whether those may be read, too.
    """

    def __init__(self, memory: Memory, outputs: set[str], in_place: bool) -> None:
        self._memory, self._outputs, self._in_place = memory, outputs, in_place
        self._storages: dict[int, Storage] = {}
        self._written: dict[str, tuple[Storage, Any]] = {}

    def address(self, name: str, tensor: torch.Tensor) -> int:
        """Map a tensor; returns the address of its first element."""
        memory = tensor.untyped_storage()
        start, size = memory.data_ptr(), memory.nbytes()
        if start not in self._storages:
            array = np.frombuffer((ctypes.c_uint8 * max(size, 1)).from_address(start), np.uint8)[:size]
            self._storages[start] = self._memory.add(array, name)
        storage = self._storages[start]
        elements = storage.elements(tensor)
        if name in self._outputs:
            storage.writable |= elements
            self._written[name] = storage, elements
        if name not in self._outputs or self._in_place:
            storage.readable |= elements
        assert start % 16 == 0, "PyTorch aligns its memory"
        return storage.base + tensor.data_ptr() - start

    def check_filled(self, names: set[str]) -> None:
        """Check that a launch has written every element of these outputs.

        Raises:
            Fault: If it has not.
        """
        for name in names & self._written.keys():
            storage, elements = self._written[name]
            left = int((storage.writer[elements] < 0).sum())
            if left:
                raise Fault(f"leaves {left} bytes of {name} unwritten")


def _parameters(program: Program, arguments: list[tuple[str, str, Any]], mapped: _Mapped) -> dict[str, int]:
    """The bits of all parameters; the last ones, of scratch memory that nothing asks for, are 0."""
    values = {parameter: 0 for parameter, _ in program.parameters}
    assert len(values) >= len(arguments)
    for (parameter, declared), (name, kind, value) in zip(program.parameters, arguments, strict=False):
        if kind.startswith("*"):
            assert declared in ("u64", "b64"), (declared, name)
            values[parameter] = mapped.address(name, value)
        elif kind == "fp32":
            assert declared in ("f32", "b32"), (declared, name)
            values[parameter] = int.from_bytes(struct.pack("<f", value), "little")
        else:
            width = int(kind[1:])
            assert declared[1:] == str(max(width, 8)), (declared, kind, name)
            if not -(2 ** (width - 1)) <= value < 2 ** (width - (kind[0] == "i")):
                raise Fault(f"{name}={value} is no {kind}")
            values[parameter] = int(value) & (2**width - 1)
    return values
