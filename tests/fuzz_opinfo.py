"""PyTorch's own sample inputs for cross entropy and bilinear interpolation, through the losses that equal them."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from fuzz_cases import Case
from fuzz_inputs import place
from tolerances import EXACT, GRADIENT, LOSS
from torch import Tensor
from torch.testing import assert_close

import fpl_fast


@functools.cache
def _samples(name: str) -> Callable[..., Any]:
    # The import would forbid the whole process to set flags of backends, which the trainer does.
    with mock.patch.object(torch.backends, "disable_global_flags"):
        from torch.testing._internal.common_methods_invocations import op_db  # ten seconds

    function, _, variant = name.partition(" ")
    (found,) = (op for op in op_db if op.name == f"nn.functional.{function}" and op.variant_test_name == variant)
    return found.sample_inputs


def samples(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor | None, dict[str, Any]]]:
    """(N, C, h, w) logits, labels or None, and options of F.cross_entropy, or size and align_corners."""
    for sample in _samples("cross_entropy")("cpu", dtype, False):
        (target,) = sample.args
        if not target.is_floating_point():
            n, c, *spatial = sample.input.shape
            shape = (*[1, 1, *spatial][-2:],) if len(spatial) < 3 else (-1, spatial[-1])
            options = dict(sample.kwargs)
            if "weight" in options:
                options["weight"] = options["weight"].abs()  # a mean over weights that cancel is another matter
            yield sample.input.reshape(n, c, *shape), target.reshape(n, *shape), options
    for sample in _samples("interpolate bilinear")("cpu", dtype, False):
        size = tuple(F.interpolate(sample.input.float(), *sample.args, **sample.kwargs).shape[2:])
        yield sample.input, None, {"size": size, "align_corners": bool(sample.kwargs["align_corners"])}


def check(case: Case, engine: str, device: str) -> tuple[str, str] | None:
    """Compare a sample's losses and gradients with PyTorch's in float64."""
    given = case.settings
    dtype = getattr(torch, given["dtype"])
    with torch.random.fork_rng():
        torch.manual_seed(case.seed)
        logits, target, options = next(itertools.islice(samples(dtype), given["sample"], None))
        g = torch.Generator().manual_seed(case.seed)
        view, buffer = place(logits, given["layout"], g, device)
        before = buffer.clone()
        try:
            if target is None:
                _upsampled(view, options, engine, g)
            else:
                _at_full_resolution(view, target.to(device), options, engine)
        except AssertionError as error:
            return "PyTorch's cross entropy", " ".join(str(error).split())
    if not torch.equal(buffer.view(torch.uint8), before.view(torch.uint8)):
        return "inputs are not written", "logits changed"
    return None


def _at_full_resolution(logits: Tensor, target: Tensor, options: dict[str, Any], engine: str) -> None:
    options = {"ignore_index": -100} | options
    exact = logits.detach().double().resolve_neg().requires_grad_()
    doubled = {name: x.double().to(logits.device) if name == "weight" else x for name, x in options.items()}
    expected = F.cross_entropy(exact, target, **doubled)
    if options.get("reduction", "mean") == "mean":
        expected = expected.nan_to_num(nan=0.0)  # of nothing, the mean is 0
    given = {name: x.to(logits.device) if name == "weight" else x for name, x in options.items()}
    _compare(lambda z: fpl_fast.cross_entropy(z, target, engine=engine, **given), expected, logits, exact)
    if "weight" not in options:
        ignored = options.pop("ignore_index")
        counts = target != ignored
        teacher = 9.0 * F.one_hot(target.where(counts, 0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        keywords = {"valid_mask": counts, "engine": engine, **options}
        _compare(lambda z: fpl_fast.pseudo_label_cross_entropy(z, teacher, **keywords), expected, logits, exact)


def _upsampled(logits: Tensor, options: dict[str, Any], engine: str, g: torch.Generator) -> None:
    exact = logits.detach().double().resolve_neg().requires_grad_()

    def interpolated(x: Tensor) -> Tensor:
        return F.interpolate(x, options["size"], mode="bilinear", align_corners=options["align_corners"])

    n, c = logits.shape[:2]
    target = torch.randint(c, (n, *options["size"]), generator=g).to(logits.device)
    expected = F.cross_entropy(interpolated(exact), target)
    _compare(lambda z: fpl_fast.cross_entropy(z, target, engine=engine, **options), expected, logits, exact)
    teacher = torch.randn(logits.shape, generator=g, dtype=torch.float64).to(logits)
    ranked = interpolated(teacher.double()).sort(1, descending=True)
    clear = ranked.values[:, 0] - ranked.values[:, 1] > 1e-4
    expected = F.cross_entropy(interpolated(exact), ranked.indices[:, 0].where(clear, -100))
    keywords = {"valid_mask": clear, "engine": engine, **options}
    _compare(lambda z: fpl_fast.pseudo_label_cross_entropy(z, teacher, **keywords), expected, logits, exact)


def _compare(loss_of: Callable[[Tensor], Tensor], expected: Tensor, logits: Tensor, exact: Tensor) -> None:
    leaf = logits.detach().requires_grad_()
    loss = loss_of(leaf)
    single = logits.dtype != torch.float64
    assert_close(loss.double(), expected, **(LOSS if single else EXACT))
    (ours,) = torch.autograd.grad(loss.sum(), leaf)
    (theirs,) = torch.autograd.grad(expected.sum(), exact, retain_graph=True)
    assert_close(ours.double(), theirs, **(GRADIENT[logits.dtype] if single else EXACT))
