"""Kernels around a pass: the sums made into results, and the gradient scaled in place."""

import torch
from kernel_cases import draw_logits
from torch import Tensor

from fpl_fast.kernels.arguments import SUMS
from fpl_fast.kernels.finish import BLOCK, LOADS, finish
from fpl_fast.kernels.scale import scale_
from fpl_fast.kernels.statistics import Finish
from fpl_fast.ops.finish import finish as finish_exactly
from ptx import expected
from ptx.cases.table import DTYPES, Case, add, channels_last, moved

NUM_PIXELS = 1 << 20
ONCE_ROUNDED = {"rtol": 2.0**-23, "atol": 0.0}


class Finished(Case):
    """Loss, factor and statistics of partial sums.

    Args:
        sums: In parts.
        todo: What is to be made of them.
    """

    def __init__(self, sums: Tensor, todo: Finish) -> None:
        self.sums, self.todo = sums, todo

    def run(self) -> dict[str, Tensor]:
        found = finish(self.sums, self.todo, NUM_PIXELS)._asdict()
        return {name: x for name, x in found.items() if x is not None}

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        want = finish_exactly(self.sums.double().sum(1), self.todo, NUM_PIXELS)._asdict()
        assert result.keys() == {name for name, x in want.items() if x is not None}
        return {name: expected.excess(x, want[name], **ONCE_ROUNDED) for name, x in result.items()}

    def tensors(self) -> list[Tensor]:
        return [self.sums, *(x for x in self.todo if isinstance(x, Tensor))]


def sums_of_a_pass(num_programs: int, todo: Finish, terms: int = len(SUMS), scale: bool = False) -> Finished:
    """Partial sums as a pass leaves them: counts are whole, and K = 1, 2, 3 are some of the valid pixels."""
    partial = 100 * torch.rand(len(SUMS), num_programs)
    partial[1], partial[6:9] = 120, torch.randint(0, 40, (3, num_programs)).float()
    return Finished(partial[:terms].contiguous(), todo._replace(scale=torch.rand(())) if scale else todo)


class Scaled(Case):
    """A gradient that is scaled.

    Args:
        grad: To be scaled, as it is before.
        factors: One or two.
        offset: Elements by which its memory is moved.
    """

    def __init__(self, grad: Tensor, factors: list[Tensor], offset: int = 0) -> None:
        self.grad, self.factors, self.offset = grad, factors, offset

    def run(self) -> dict[str, Tensor]:
        work = moved(self.grad, self.offset) if self.offset else self.grad.clone(memory_format=torch.preserve_format)
        scale_(work, *self.factors)
        return {"grad": work}

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        factor = torch.stack([x.reshape(-1)[0] for x in self.factors]).prod()
        want = (self.grad.to(factor.dtype) * factor).to(self.grad.dtype)
        return {"grad": expected.unequal(result["grad"], want)}

    def tensors(self) -> list[Tensor]:
        return [self.grad, *self.factors]


def scaled(shape: tuple[int, ...], dtype: str, *factors: float, last: bool = False, offset: int = 0) -> Scaled:
    """A random gradient and factors of the dtype that it takes."""
    grad = draw_logits(*shape, dtype=DTYPES[dtype])
    given = [torch.tensor(x, dtype=torch.float64 if dtype == "fp64" else torch.float32) for x in factors]
    return Scaled(channels_last(grad) if last else grad, given, offset)


EVERYTHING = Finish(0.25, scale_in_backward=True, weighted_mean=True, balance=True, with_stats=True)
add("finish: everything", sums_of_a_pass, 999, EVERYTHING)
add("finish: everything, small", sums_of_a_pass, 7, EVERYTHING, scale=True, quick=True)
add("finish: everything, scale on the device", sums_of_a_pass, BLOCK + 1, EVERYTHING, scale=True)
add("finish: everything, several trips", sums_of_a_pass, LOADS // 4 * BLOCK + 1, EVERYTHING)
add("finish: the loss alone", sums_of_a_pass, LOADS * BLOCK + 577, Finish(), terms=1)
add("finish: three terms", sums_of_a_pass, 5, Finish(0.5), terms=3)
add("finish: weighted mean", sums_of_a_pass, BLOCK, Finish(weighted_mean=True))
add("finish: balance and statistics", sums_of_a_pass, BLOCK - 1, Finish(balance=True, with_stats=True))
add("finish: no program", sums_of_a_pass, 0, EVERYTHING)
for dtype in DTYPES:
    add(f"scale {dtype}", scaled, (2, 3, 37, 41), dtype, 0.37)
add("scale bf16 small", scaled, (3, 11, 13), "bf16", 0.37, -1.5, quick=True)
add("scale by 1 fp32", scaled, (5000,), "fp32", 1.0)
add("scale by 1 in two factors fp32", scaled, (5000,), "fp32", 4.0, 0.25)
add("scale bf16 whole blocks", scaled, (2, 4096), "bf16", 65536.0, 0.75)
add("scale bf16 moved", scaled, (5000,), "bf16", -3.5, offset=1)
add("scale fp32 channels_last", scaled, (2, 3, 5, 7), "fp32", 0.5, last=True)
add("scale fp16 one element", scaled, (1,), "fp16", 2.0)
add("scale fp64 two factors", scaled, (2, 3, 37), "fp64", 0.37, 3.0)
