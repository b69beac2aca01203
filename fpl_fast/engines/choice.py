"""The inputs that each engine can run, and the choice that ``"auto"`` makes."""

import functools
import importlib.util
import math
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fpl_fast import checks
from fpl_fast.caller import warn_caller
from fpl_fast.engines import (
    context_planes,
    distance_planes,
    eager,
    eager_consistency,
    eager_context,
    eager_labels,
    eager_pseudo_labels,
    packages,
    planes,
)
from fpl_fast.kernels.arguments import ContextOptions, Distance, LossInputs, LossOptions, TeacherInputs
from fpl_fast.kernels.divergence import MAX_ENTRIES, table_shape

# Below this many logits the eager engine is done before a compiled graph would be looked up and compiled.
COMPILED_MIN_LOGITS = 1 << 18
# The kernels are tested up to here.
TRITON_MAX_CLASSES = 1024


def evaluate(
    function: str,
    of: Callable[[str], ModuleType],
    engine: str,
    inputs: LossInputs,
    options: LossOptions | Distance,
    **keywords: Any,
) -> Any:
    """Call ``function`` of the module that implements the engine; "auto" falls back to "eager" where it must.

    Args:
        function: Name of the function.
        of: ``module`` or ``consistency_module``.
        engine: "auto" or the name of one.
        inputs: Of the loss.
        options: Of the loss.
        keywords: Of the function.

    Raises:
        ValueError: If the named engine cannot run here; the message says why and names one that can.
    """
    resolved = resolve(engine, inputs.student, inputs.teacher, inputs.pixels())
    run, run_eagerly = (getattr(of(x), function) for x in (resolved, "eager"))
    return _run(engine, run, run_eagerly, inputs, options, **keywords)


def choose_thresholds(engine: str, inputs: TeacherInputs, options: ContextOptions) -> Tensor:
    """The threshold of every pixel by an engine, (N, H, W) float32; "auto" falls back to "eager" where it must.

    Raises:
        ValueError: As in :func:`evaluate`.
    """
    run = context_module(resolve_context(engine, inputs, options)).adaptive_threshold
    chosen: Tensor = _run(engine, run, eager_context.adaptive_threshold, inputs, options)
    return chosen


def _run(engine: str, run: Callable[..., Any], run_eagerly: Callable[..., Any], *given: Any, **keywords: Any) -> Any:
    """Call ``run``; where it turns out that nothing can be compiled, "auto" warns and calls ``run_eagerly``."""
    try:
        return run(*given, **keywords)
    except packages.UnavailableError as error:
        if engine != "auto":
            raise ValueError(f"engine={engine!r} cannot run here: {error}; engine='eager' can") from None
        _warn_once(str(error))
        return run_eagerly(*given, **keywords)


@functools.cache
def _warn_once(reason: str) -> None:
    warn_caller(f"engine='compiled' cannot run here: {reason}; the slower engine='eager' does")


def resolve(engine: str, student_logits: Tensor, teacher_logits: Tensor, pixels: tuple[int, ...] | None = None) -> str:
    """The engine to use for these logits, on (N, H, W) ``pixels`` where they are upsampled.

    Raises:
        ValueError: If the named engine cannot run here; the message says why and names one that can.
    """
    pixels = (len(student_logits), *student_logits.shape[2:]) if pixels is None else pixels
    float64 = torch.float64 in (student_logits.dtype, teacher_logits.dtype)
    if engine == "auto":
        return _pick_aloud(student_logits, float64, pixels)
    reason = _refusal(engine, student_logits, float64)
    if reason is not None:
        other, _ = _pick(student_logits, float64, pixels)
        raise ValueError(f"engine={engine!r} cannot run here: {reason}; engine={other!r} can")
    return engine


def module(engine: str) -> ModuleType:
    """The module that implements a resolved engine: ``fuzzy_positive_sums`` and ``fuzzy_positive_map``."""
    if engine == "triton":
        from fpl_fast.kernels import fuzzy_positive  # imports triton: only where it is asked for

        return fuzzy_positive
    return {"compiled": planes, "eager": eager}[engine]


def resolve_labels(engine: str, *logits: Tensor) -> str:
    """The engine of a function that has no "compiled" one: "triton" where it can run, otherwise "eager".

    Raises:
        ValueError: If the named engine does not exist or cannot run here.
    """
    checks.check_options(checks.LABEL_RULES, engine=engine)
    reason = _refusal("triton", logits[0], any(x.dtype == torch.float64 for x in logits))
    if engine == "triton" and reason is not None:
        raise ValueError(f"engine='triton' cannot run here: {reason}; engine='eager' can")
    return "triton" if engine == "triton" or (engine == "auto" and logits[0].is_cuda and reason is None) else "eager"


def label_module(engine: str) -> ModuleType:
    """The module that implements a resolved engine: ``cross_entropy_sums`` and ``cross_entropy_map``."""
    if engine == "triton":
        from fpl_fast.kernels import cross_entropy

        return cross_entropy
    return eager_labels


def consistency_module(engine: str) -> ModuleType:
    """The module that implements a resolved engine: ``consistency_sums`` and ``consistency_map``."""
    if engine == "triton":
        from fpl_fast.kernels import consistency

        return consistency
    return {"compiled": distance_planes, "eager": eager_consistency}[engine]


def prediction_module(engine: str) -> ModuleType:
    """The module that implements a resolved engine of ``resolve_labels``: ``pseudo_labels``."""
    if engine == "triton":
        from fpl_fast.kernels import pseudo_labels

        return pseudo_labels
    return eager_pseudo_labels


def resolve_context(engine: str, inputs: TeacherInputs, options: ContextOptions) -> str:
    """The engine of a choice among thresholds.

    Raises:
        ValueError: If the named engine cannot run here; the message says why and names one that can.
    """
    teacher = inputs.teacher
    if engine == "auto":
        picked = _pick_aloud(teacher, teacher.dtype == torch.float64, inputs.pixels())
        return "eager" if _refusal_of_context(picked, teacher, options) else picked
    reason = _refusal(engine, teacher, teacher.dtype == torch.float64) or _refusal_of_context(engine, teacher, options)
    if reason is not None:
        raise ValueError(f"engine={engine!r} cannot run here: {reason}; engine='eager' can")
    return engine


def _refusal_of_context(engine: str, logits: Tensor, options: ContextOptions) -> str | None:
    """Reason why the bytes of this engine cannot hold these options, or None."""
    if engine == "eager":
        return None
    limits: dict[str, tuple[int, int]] = {
        "thresholds": (len(options.thresholds), context_planes.MAX_THRESHOLDS),
        "entries in a table that grows with window and max_positives": (math.prod(table_shape(options)), MAX_ENTRIES),
    }
    if engine == "triton":
        from fpl_fast.kernels import context

        limits |= {
            "classes": (logits.shape[1], context.MAX_CLASSES),
            "thresholds": (len(options.thresholds), context.MAX_THRESHOLDS),
            "positives (max_positives)": (options.max_positives, context.MAX_POSITIVES),
        }
    for what, (number, limit) in limits.items():
        if number > limit:
            return f"it takes at most {limit} {what}, got {number}"
    return None


def context_module(engine: str) -> ModuleType:
    """The module that implements a resolved engine: ``adaptive_threshold``."""
    if engine == "triton":
        from fpl_fast.kernels import context

        return context
    return {"compiled": context_planes, "eager": eager_context}[engine]


def _pick_aloud(logits: Tensor, float64: bool, pixels: tuple[int, ...]) -> str:
    """The engine that "auto" stands for, with a warning where only a compiler is missing."""
    picked, missed = _pick(logits, float64, pixels)
    if missed is not None:
        _warn_once(missed)
    return picked


def _pick(student_logits: Tensor, float64: bool, pixels: tuple[int, ...]) -> tuple[str, str | None]:
    """The fastest engine for these logits, and why it is not "compiled" where only a compiler is missing."""
    if student_logits.is_cuda:
        return "triton" if _refusal("triton", student_logits, float64) is None else "eager", None
    if student_logits.shape[1] * math.prod(pixels) < COMPILED_MIN_LOGITS:
        return "eager", None
    reason = _refusal("compiled", student_logits, float64)
    if reason is None:
        return "compiled", None
    return "eager", reason if reason == packages.unavailable_reason() else None


def _refusal(engine: str, student_logits: Tensor, float64: bool) -> str | None:
    """Reason why this engine cannot evaluate these logits, or None."""
    if engine == "eager":
        return None
    if float64:
        return "it computes in float32 and the logits are float64"
    if engine == "triton":
        if not has_triton():
            return "triton is not installed"
        if student_logits.shape[1] > TRITON_MAX_CLASSES:
            return f"it takes at most {TRITON_MAX_CLASSES} classes and the logits have {student_logits.shape[1]}"
        if not student_logits.is_cuda and not _interpreted():
            return f"it needs a CUDA or ROCm device and the logits are on {student_logits.device}"
        return None
    if student_logits.device.type != "cpu":
        return f"it runs on the CPU and the logits are on {student_logits.device}"
    if student_logits.shape[1] > planes.MAX_CLASSES:
        return f"it takes at most {planes.MAX_CLASSES} classes and the logits have {student_logits.shape[1]}"
    return packages.unavailable_reason()


def _interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, by the words that Triton takes for yes."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


_HAS_TRITON = importlib.util.find_spec("triton") is not None


def has_triton() -> bool:
    """Whether triton is installed."""
    return _HAS_TRITON
