"""A CUDA device that is not there: Triton compiles for it as for a real one, and launches run in the machine."""

import os
from typing import Any

import poison
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import compiler
from triton.runtime import driver

from ptx.launches import PTX, Launcher

SHARED_BYTES = {80: 166912, 86: 101376, 89: 101376, 90: 232448}  # that a block may take, by compute capability


class _Utilities:
    """Answers to all that Triton asks of a device."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {
            "max_shared_mem": SHARED_BYTES[self._capability],
            "multiprocessor_count": 108,
            "max_num_regs": 65536,
            "warpSize": 32,
        }

    def load_binary(self, *_: Any) -> tuple[Any, ...]:
        module, function, registers, spilled, most_threads = object(), object(), 0, 0, 1024
        return module, function, registers, spilled, most_threads


class Driver:
    """The part of Triton's driver that a launch uses."""

    launcher_cls = Launcher

    def __init__(self, capability: int) -> None:
        self.utils, self._capability = _Utilities(capability), capability

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


def install(capability: int, cache: str) -> None:
    """Make a device of a compute capability Triton's, in a process that does nothing else: one is kept per launch.

    Args:
        capability: 80 for sm_80.
        cache: Folder of what is compiled. It must not be the one of a real device: nothing is assembled here.
    """
    assert "TRITON_INTERPRET" not in os.environ
    os.environ["TRITON_CACHE_DIR"] = cache
    torch.set_num_threads(1)
    driver.set_active(Driver(capability))
    CUDABackend.make_cubin = lambda *_: b""  # it takes half the time
    initialise = compiler.CompiledKernel.__init__

    def keep_text(self: Any, *args: Any, **keywords: Any) -> None:
        initialise(self, *args, **keywords)
        PTX[self.metadata.hash] = self.asm["ptx"]

    compiler.CompiledKernel.__init__ = keep_text
    for owner, name in poison.ALLOCATE:
        setattr(owner, name, poison.poisoned(getattr(owner, name)))


def unavailable_reason() -> str | None:
    """Why Triton cannot compile for CUDA here; None if it can."""
    try:
        triton.knobs.nvidia.ptxas  # noqa: B018, the search is what is asked for
    except RuntimeError as error:
        return str(error)
    return None
