"""Host time of a step of the loss, without a device: ``python -m fpl_fast.bench.host_time``.

Kernels are neither compiled nor run: what is left is the work of Python, PyTorch and Triton's launcher, which a GPU
must not wait for. The tensors are tiny and on the CPU. A real launch adds the driver's own time, some 4 to 6
microseconds on the machines it was measured on.

Times are the shortest of many rounds, of this process alone. Beside them stands an ``autograd.Function`` that does
nothing: the ratio to it is about the same on fast and slow machines.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported: the interpreter has no launcher

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from fpl_fast import cross_entropy, fuzzy_positive_loss
from fpl_fast.engines import choice
from fpl_fast.kernels import scale
from fpl_fast.ops import gradient

__all__ = ["main"]

_CALLS, _ROUNDS = 20, 100
_SIZE = (16, 16)


class _Driver:
    """Driver of a device that is not there."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class _Kernel:
    """A compiled kernel whose launches are counted and go nowhere."""

    function, packed_metadata = 0, ()
    launches = 0

    def result(self) -> "_Kernel":
        return self

    def launch_metadata(self, *_: Any) -> None:
        return None

    def run(self, *_: Any) -> None:
        _Kernel.launches += 1

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        def launch(*arguments: Any) -> None:
            device = driver.active.get_current_device()
            self.run(*grid, driver.active.get_current_stream(device), self.function, *arguments)

        return launch


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor) -> Tensor:
        ctx.save_for_backward(student)
        return student.new_empty(())

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return ctx.saved_tensors[0]


def main(arguments: list[str] | None = None) -> int:
    """Print the launches and the host time of each kind of step."""
    description = "Count the launches of a step of the loss, and time the host, without a device."
    argparse.ArgumentParser(description=description).parse_args(arguments)
    _take_the_device_away()
    student, teacher = torch.randn(2, 2, 19, 4, 4).bfloat16().unbind()
    student.requires_grad_()
    label, mask = torch.zeros(2, 4, 4, dtype=torch.int64), torch.ones(2, 4, 4, dtype=torch.bool)
    wide = torch.ones(2, *_SIZE, dtype=torch.bool)
    loss = partial(fuzzy_positive_loss, student, teacher, max_positives=3, weighting="concave", engine="triton")
    steps: dict[str, Callable[[], Any]] = {
        "nothing, in an autograd.Function": partial(_Nothing.apply, student),
        "full resolution": loss,
        "with statistics and balance": partial(loss, return_stats=True, balance=True),
        "and a mask": partial(loss, return_stats=True, balance=True, valid_mask=mask),
        "upsampled, statistics": partial(loss, return_stats=True, size=_SIZE),
        "upsampled, statistics, a mask, CutMix": partial(
            loss, return_stats=True, size=_SIZE, valid_mask=wide, partner_logits=teacher, mix_mask=wide
        ),
        "labels": partial(cross_entropy, student, label, engine="triton"),
    }
    sys.stdout.write(f"PyTorch {torch.__version__}, Triton {triton.__version__}: loss and gradient\n")
    nothing_us = None
    for name, step in steps.items():
        launches, host_us = _measure(step, student)
        nothing_us = nothing_us or host_us
        sys.stdout.write(
            f"{name:38s} {launches} launches {host_us:6.1f} us, {host_us / nothing_us:4.1f} times the first line\n"
        )
        sys.stdout.flush()
    return 0


def _take_the_device_away() -> None:
    """Let this process launch the kernels of a GPU on tensors of the CPU, with no effect."""

    def compile_nothing(self: Any, key: Any, signature: Any, device: Any, *_: Any, **__: Any) -> _Kernel:
        kernel = self.device_caches[device][0][key] = _Kernel()
        return kernel

    driver.set_active(_Driver())
    JITFunction._do_compile = compile_nothing
    choice._refusal = lambda *_: None
    gradient.scale_ = scale.scale_


def _measure(step: Callable[[], Any], student: Tensor) -> tuple[int, float]:
    """Launches of a step, without those of PyTorch, and the shortest time in microseconds."""

    def once() -> None:
        result = step()
        torch.autograd.grad(result[0] if isinstance(result, tuple) else result, student)

    once()
    before = _Kernel.launches
    once()
    launches = _Kernel.launches - before
    times = []
    for _ in range(_ROUNDS):
        start = time.process_time()
        for _ in range(_CALLS):
            once()
        times.append(time.process_time() - start)
    return launches, 1e6 * min(times) / _CALLS


if __name__ == "__main__":
    sys.exit(main())
