"""The public functions, of whose kernels a call launches several, against the eager engine in float64."""

from collections.abc import Callable
from typing import Any

import torch
from tolerances import GRADIENT
from torch import Tensor

import fpl_fast
from fpl_fast.engines import choice
from fpl_fast.kernels.arguments import LossInputs
from ptx import expected
from ptx.cases.fuzzy_positive import DEFAULTS
from ptx.cases.table import F16, UNCAPPED, Case, add, box, logits


class Function(Case):
    """Loss, statistics and gradient of a function.

    Args:
        function: Of the package.
        student: Its logits.
        others: All other arguments.
    """

    def __init__(self, function: Callable[..., Any], student: Tensor, others: dict[str, Any]) -> None:
        self.function, self.student, self.others = function, student, others

    def is_clear(self) -> bool:
        given = self.others
        if "teacher_logits" not in given:
            return True
        inputs = LossInputs(self.student, given["teacher_logits"], given.get("partner_logits"), given.get("mix_mask"))
        cap = min(given.get("max_positives", UNCAPPED), self.student.shape[1] - 1)
        options = DEFAULTS._replace(max_positives=cap, confidence_threshold=given.get("confidence_threshold", 0.0))
        return expected.is_clear(inputs._replace(size=given.get("size")), options, False)

    def run(self) -> dict[str, Tensor]:
        refusal, choice._refusal = choice._refusal, lambda *_: None  # it asks for a GPU or the interpreter
        try:
            return self._call("triton", self.student, self.others)
        finally:
            choice._refusal = refusal

    def _call(self, engine: str, student: Tensor, others: dict[str, Any]) -> dict[str, Tensor]:
        student = student.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        loss, statistics = self.function(student, engine=engine, **others), None
        if isinstance(loss, tuple):
            loss, statistics = loss
        upstream = 3 * torch.linspace(-1, 1, loss.numel() + 1)[1:].view(loss.shape).to(loss.dtype)
        (grad,) = torch.autograd.grad(loss, student, upstream)
        return {"loss": loss.detach(), "grad": grad} | ({} if statistics is None else statistics._asdict())

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        wide = {k: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for k, x in self.others.items()}
        want = self._call("eager", self.student.double(), wide)
        allowed = {name: {"rtol": 2e-5, "atol": 2e-5} for name in result}
        rounding = 2.0**-24 if self.student.dtype == F16 else 0.0  # of subnormal gradients
        largest = want["grad"].abs().max().item()
        allowed["grad"] = GRADIENT[self.student.dtype] | {"atol": 2e-5 * largest + rounding}
        return {name: expected.excess(x, want[name], **allowed[name]) for name, x in result.items()}

    def tensors(self) -> list[Tensor]:
        return [x for x in (self.student, *self.others.values()) if isinstance(x, Tensor)]


def function(
    name: str, dtype: str, shape: tuple[int, int, int, int] = (2, 5, 13, 17), *, teacher: bool = True, **others: Any
) -> Function:
    """A call with random logits; arguments that are functions are drawn."""
    given = {k: x() if callable(x) else x for k, x in others.items()}
    if teacher:
        given["teacher_logits"] = logits(shape, dtype)
    return Function(getattr(fpl_fast, name), logits(shape, dtype), given)


FUZZY, SMALL = "fuzzy_positive_loss", (2, 5, 6, 7)
CUTMIX = {"size": (12, 14), "partner_logits": lambda: logits(SMALL, "fp32"), "mix_mask": lambda: box(2, 12, 14)}
MEAN = {"weighting": "concave", "max_positives": 3, "return_stats": True}
add("function: mean bf16", function, FUZZY, "bf16", **MEAN)
add(
    "function: mean fp16 valid",
    function,
    FUZZY,
    "fp16",
    weighting="concave",
    valid_mask=lambda: torch.rand(2, 13, 17) > 0.5,
)
add("function: none fp32", function, FUZZY, "fp32", reduction="none", weighting="linear")
BALANCED = {"reduction": "weighted_mean", "balance": True, "return_stats": True}
add(
    "function: weighted mean, balance fp32",
    function,
    FUZZY,
    "fp32",
    **BALANCED,
    pixel_weight=lambda: torch.rand(2, 13, 17),
)
SMALL_WEIGHTS = {"pixel_weight": lambda: torch.rand(1, 3, 5)}
add("function: balance, small", function, FUZZY, "bf16", (1, 5, 3, 5), **BALANCED, **SMALL_WEIGHTS, quick=True)
GATED = {"confidence_threshold": 0.6, "confidence_power": 2.0, "reduction": "weighted_mean"}
add("function: pseudo-labels fp32 confidence", function, "pseudo_label_cross_entropy", "fp32", **GATED)
add("function: upsampled fp32 cutmix", function, FUZZY, "fp32", SMALL, **CUTMIX, weighting="concave")
TARGET = {"teacher": False, "target": lambda: torch.randint(0, 5, (2, 13, 17)), "weight": lambda: torch.rand(5)}
add("function: labels bf16 weights", function, "cross_entropy", "bf16", **TARGET)
OHEM = {"teacher": False, "target": lambda: torch.randint(0, 5, (2, 20, 24)), "min_kept": 100, "size": (20, 24)}
add("function: ohem fp32 upsampled", function, "ohem_cross_entropy", "fp32", SMALL, **OHEM)
for kind in ("mse", "kl"):
    add(
        f"function: consistency {kind} upsampled cutmix",
        function,
        "consistency_loss",
        "fp32",
        SMALL,
        **CUTMIX,
        kind=kind,
    )
