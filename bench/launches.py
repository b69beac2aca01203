"""Launches of the kernels for tools that watch a process: ``python -m fpl_fast.bench.launches small``.

"small" runs every kernel on a tiny case, forward and backward, for checkers that slow a kernel a thousandfold;
"headline" and "upsampled" run the first case of the benchmarks of that kind a few times, for profilers.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from fpl_fast import adaptive_threshold, cross_entropy, fuzzy_positive_loss, ohem_cross_entropy
from fpl_fast.bench.cases import make_inputs
from fpl_fast.bench.suites import selection

__all__ = ["main"]

_SIZE = (13, 37)  # of the loss; divides no block


def main(arguments: list[str] | None = None) -> int:
    """Run the launches and print a line for each."""
    parser = argparse.ArgumentParser(description="Launch the kernels, for tools that watch a process.")
    parser.add_argument("what", choices=("small", "headline", "upsampled"))
    parser.add_argument("--device", default="cuda", help="default: cuda")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    launches = _small(device) if options.what == "small" else _first_row(options.what, device)
    for name, loss in launches:
        value = loss()
        if value.requires_grad:
            value.sum().backward()
        sys.stdout.write(f"{name}  {value.float().sum().item():.6g}\n")
    return 0


def _small(device: torch.device) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Every kernel, with each form of its operands, of numbers of classes that compile in seconds."""
    generator = torch.Generator().manual_seed(0)
    for num_classes, dtype, sizes in (
        (5, torch.float32, (None, _SIZE)),
        (7, torch.bfloat16, (None, _SIZE)),
        (33, torch.float16, (None,)),
    ):
        for size in sizes:
            low = _SIZE if size is None else (5, 11)
            shape = (2, num_classes, *low)

            def logits(shape: tuple[int, ...] = shape, dtype: torch.dtype = dtype) -> Tensor:
                return (3 * torch.randn(shape, generator=generator)).to(device, dtype)

            student, teacher, partner = logits().requires_grad_(), logits(), logits()
            mask = (torch.rand(2, *_SIZE, generator=generator) < 0.5).to(device)
            label = torch.randint(num_classes, (2, *_SIZE), generator=generator).to(device)
            label[:, :2] = 255
            name = f"C={num_classes} {str(dtype).removeprefix('torch.')} {'upsampled' if size else 'full resolution'}"
            fuzzy = partial(fuzzy_positive_loss, student, teacher, size=size)
            yield f"fuzzy positives, {name}", fuzzy
            yield f"weighted, {name}", partial(fuzzy, weighting="concave", balance=True)
            yield f"hinge, uncapped, {name}", partial(fuzzy, form="hinge", max_positives=None)
            yield f"masked, by pixel, {name}", partial(fuzzy, valid_mask=mask, reduction="none")
            yield f"CutMix, {name}", partial(fuzzy, partner_logits=partner, mix_mask=mask)
            yield f"labels, {name}", partial(cross_entropy, student, label, size=size)
            yield f"OHEM, {name}", partial(ohem_cross_entropy, student, label, min_kept=50, size=size)
            yield (
                f"adaptive threshold, {name}",
                partial(adaptive_threshold, teacher, (0.8, 0.95), max_positives=3, size=size),
            )
            if size is None:
                rows = [x.detach().contiguous(memory_format=torch.channels_last) for x in (student, teacher)]
                yield f"channels last, {name}", partial(fuzzy_positive_loss, rows[0].requires_grad_(), rows[1])


def _first_row(what: str, device: torch.device) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The first row of the benchmarks at full resolution or upsampled, six times."""
    problem = "upsampling" if what == "upsampled" else "fuzzy_positive"
    case = selection(problem, "headline", device.type)[0].case
    inputs = make_inputs(case, device)
    loss = partial(fuzzy_positive_loss, inputs.student, inputs.teacher, max_positives=3, size=case.size)
    for number in range(6):
        yield f"{what} {number + 1}", loss


if __name__ == "__main__":
    sys.exit(main())
