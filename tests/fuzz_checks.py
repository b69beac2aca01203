"""Promises of a call of a loss: the float64 reference, the same bits again, image by image, and nothing written."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import fuzz_expected as fuzzy
import fuzz_expected_consistency as consistency
import fuzz_expected_labels as labels
import fuzz_opinfo
import numpy as np
import torch
from fuzz_approx import precision
from fuzz_cases import Case
from fuzz_inputs import Call, build
from torch import Tensor

import fpl_fast
from fpl_fast.engines.planes import MAX_CLASSES

FUZZY = ("fuzzy_positive_loss", "pseudo_label_cross_entropy")
Outcome = dict[str, Tensor]


def engines(case: Case, device: str) -> list[str]:
    """The engines that a case runs on."""
    if case.loss == "fuzzy_positive_assignment":
        return ["eager"]
    given = case.settings
    found = ["eager"]
    double = "float64" in (given.get("dtype"), given.get("teacher_dtype"), given.get("partner_dtype"))
    has_planes = case.loss in (*FUZZY, "consistency_loss", "adaptive_threshold")
    if has_planes and device == "cpu" and not double and given["c"] <= MAX_CLASSES:
        found.append("compiled")
    if not double and (device == "cuda" or (case.small and not _misread(given))):
        found.append("triton")
    return found


def _misread(given: dict[str, Any]) -> bool:
    """Whether Triton's interpreter misreads these settings' logits: to it, denormal bfloat16 numbers are others."""
    pairs = (("dtype", "content"), ("teacher_dtype", "teacher_content"), ("partner_dtype", "teacher_content"))
    return any((given.get(dtype), given.get(content)) == ("bfloat16", "denormal") for dtype, content in pairs)


def check(case: Case, engine: str, device: str) -> tuple[str, str] | None:
    """Run a case on an engine; returns the promise that is broken and how, or None."""
    if case.loss == "opinfo":
        return fuzz_opinfo.check(case, engine, device)
    try:
        return next(_broken(case, engine, device), None)
    except Exception as error:
        if case.loss == "adaptive_threshold" and "it takes at most" in str(error):
            return None  # a limit of the engine, which says so
        return "no error", f"{type(error).__name__}: {error}"


def _broken(case: Case, engine: str, device: str) -> Iterator[tuple[str, str]]:
    call = build(case, device)
    double = any(x.dtype == torch.float64 for name, x in call.tensors.items() if name.endswith("logits"))
    p = precision(engine, double)
    with threads(case.settings.get("threads", 1)), np.errstate(all="ignore"):
        first = run(call, engine)
        if names := call.written():
            yield "inputs are not written", f"{', '.join(names)} changed"
        expected, asked = expectation(call, p)
        outcome = first if asked is call else run(asked, engine)
        for name, values in expected.items():
            if (wrong := values.worst(fuzzy.numbers(outcome[name]))) is not None:
                yield "the float64 reference", f"{name}: {wrong}"
        again = run(call, engine)
        if names := [name for name, x in first.items() if not same_bits(x, again[name])]:
            yield "the same bits again", f"{', '.join(names)} differ"
        yield from _image_by_image(call, first, engine)


def expectation(call: Call, p: Any) -> tuple[fuzzy.Expected, Call]:
    """Expected results, and the call that they are of: without the pixels that hang on rounding."""
    if call.case.loss in FUZZY:
        instead, expected = fuzzy.fuzzy_positive(call, p)
        return expected, dataclasses.replace(call, tensors=call.tensors | instead) if instead else call
    module = consistency if call.case.loss == "consistency_loss" else labels
    return getattr(module, call.case.loss)(call, p), call


def run(call: Call, engine: str) -> Outcome:
    """The results of a call by name, the gradient among them."""
    function, tensors = getattr(fpl_fast, call.case.loss), dict(call.tensors)
    student = next(iter(tensors))
    keywords = {} if call.case.loss == "fuzzy_positive_assignment" else {"engine": engine}
    if student == "teacher_logits":
        found = function(**tensors, **call.options, **keywords)
        if isinstance(found, Tensor):
            return {"loss": found}
        names = getattr(found, "_fields", ("num_positives", "positives"))
        return {name: x for name, x in zip(names, found, strict=True) if x is not None}
    tensors[student] = leaf = tensors[student].detach().requires_grad_()
    found = function(**tensors, **call.options, **keywords)
    loss, stats = found if isinstance(found, tuple) else (found, None)
    (loss * call.upstream.to(loss.dtype)).sum().backward()
    outcome = {"loss": loss.detach(), "gradient": leaf.grad}
    assert leaf.grad.dtype == leaf.dtype
    return outcome if stats is None else outcome | stats._asdict()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two results are equal, NaN to NaN."""
    return a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def _image_by_image(call: Call, whole: Outcome, engine: str) -> Iterator[tuple[str, str]]:
    """An image's pixels do not depend on the batch: the same bits, but for gradients that are collected in strips."""
    n, o = len(call.logits), call.options
    if n < 2 or o.get("reduction", "none") != "none" or o.get("balance") or "min_kept" in o:
        return
    for i in range(n):
        for name, x in run(call.image(i), engine).items():
            if whole[name].ndim > 1:
                strips = name == "gradient" and engine == "triton" and "size" in o
                if not strips and not same_bits(x, whole[name][i : i + 1]):
                    yield "an image alone", f"{name} of image {i} differs from the batch's"


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let PyTorch compute with this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
