"""The providers that are set side by side, each a function of the same logits.

A provider first sees the teacher and prepares what a training step would have at hand, then maps student logits to a
scalar loss, the mean over all pixels. Source of the public algorithm: the description of the published code in the
FPL repository, written anew here: top-4 selection, one-hot masks filled with -1e7, float32 throughout.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot, softplus

import fpl_fast
from fpl_fast import engines, reference
from fpl_fast.bench.cases import THRESHOLD, Case

__all__ = ["PROVIDERS", "Provider", "public_algorithm"]

LossOfStudent = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """One way to compute the loss of a case."""

    name: str
    about: str
    """One line for the report."""
    bind: Callable[[Case, Tensor], LossOfStudent]
    """From the case and its teacher logits to the loss as a function of the student logits."""
    supports: Callable[[Case], bool] = lambda case: True
    plain_labels: bool = False
    """Computes the K = 1 loss whatever the case asks for: a yardstick, not a competitor."""
    ordered_ties: bool = True
    """Gives equal logits to the lower class; without it, 16-bit logits lead to other positives in some pixels."""
    refusal: Callable[[Case, torch.device], str | None] = lambda case, device: None
    """Why the provider cannot run a case on a device; None if it can."""

    def solved(self, case: Case) -> Case:
        """The case whose loss this provider computes when it is given ``case``."""
        return replace(case, max_positives=1) if self.plain_labels else case


def public_algorithm(
    student_logits: Tensor, teacher_logits: Tensor, *, threshold: float = THRESHOLD, weighting: str = "none"
) -> Tensor:
    """Compute the FPL loss the way the published code does, mean over all pixels.

    K is 1 where the two largest probabilities reach the threshold, else 2 where the three largest do, else 3.

    Args:
        student_logits: (N, C, H, W) with C >= 4.
        teacher_logits: (N, C, H, W), no gradient.
        threshold: in (0, 1].
        weighting: "none", "linear", "convex" (with r's factor 1) or "concave".
    """
    num_classes = student_logits.shape[1]
    z = student_logits.float().permute(0, 2, 3, 1)
    probability = teacher_logits.detach().float().softmax(dim=1).permute(0, 2, 3, 1)
    top, index = probability.topk(4, dim=-1)
    reached_by_two = top[..., :2].sum(-1) >= threshold
    reached_by_three = top[..., :3].sum(-1) >= threshold
    k = torch.where(reached_by_two, 1, torch.where(reached_by_three, 2, 3))

    positives = one_hot(index[..., 0], num_classes)
    for rank in (1, 2):
        positives = positives + one_hot(index[..., rank], num_classes) * (k > rank).unsqueeze(-1)
    excluded = -1e7
    log_positive = torch.where(positives == 1, -z, excluded).logsumexp(dim=-1)
    log_negative = torch.where(positives == 0, z, excluded).logsumexp(dim=-1)
    loss = softplus(log_positive + log_negative)
    if weighting == "none":
        return loss.mean()

    first_negative = top.gather(-1, k.unsqueeze(-1)).squeeze(-1)
    mean = top.cumsum(dim=-1).gather(-1, k.unsqueeze(-1)).squeeze(-1) / (k + 1)
    gap = mean - first_negative
    weight = {
        "linear": lambda: gap / mean,
        "convex": lambda: gap / (mean + first_negative),
        "concave": lambda: torch.log(1 + 50 * gap) / torch.log(1 + 50 * mean),
    }[weighting]()
    return (loss * weight.clamp(max=1)).mean()


def _public(case: Case, teacher: Tensor) -> LossOfStudent:
    return lambda student: public_algorithm(student, teacher)


def _engine_provider(engine: str) -> Provider:
    def bind(case: Case, teacher: Tensor) -> LossOfStudent:
        if case.max_positives == 1:
            return lambda student: fpl_fast.pseudo_label_cross_entropy(student, teacher, engine=engine)
        return lambda student: fpl_fast.fuzzy_positive_loss(
            student, teacher, threshold=THRESHOLD, max_positives=case.max_positives, engine=engine
        )

    def refusal(case: Case, device: torch.device) -> str | None:
        pixel = torch.empty(1, case.num_classes, 1, 1, dtype=case.dtype, device=device)
        try:
            engines.resolve(engine, pixel, pixel)
        except ValueError as error:
            return str(error)
        return None

    return Provider(name=engine, about=f'fpl_fast, engine="{engine}"', bind=bind, refusal=refusal)


def _reference_loss(student: Tensor, teacher: Tensor, max_positives: int) -> Tensor:
    terms = reference.pixel_terms(
        student,
        teacher,
        threshold=THRESHOLD,
        max_positives=max_positives,
        weighting="none",
        convex_scale=1.0,
        form="smooth",
    )
    return terms.loss.mean()


@functools.cache
def _compiled_reference(mode: str) -> Callable[[Tensor, Tensor, int], Tensor]:
    # One compiled function a mode: cases of one shape share the compilation.
    return torch.compile(_reference_loss, dynamic=False, mode=mode)


def _compile_of_reference(mode: str) -> Callable[[Case, Tensor], LossOfStudent]:
    def bind(case: Case, teacher: Tensor) -> LossOfStudent:
        cap = case.num_classes - 1 if case.max_positives is None else case.max_positives
        return lambda student: _compiled_reference(mode)(student, teacher, cap)

    return bind


def _hard_cross_entropy(case: Case, teacher: Tensor) -> LossOfStudent:
    target = teacher.argmax(dim=1)
    return lambda student: cross_entropy(student, target)


def _argmax_cross_entropy(case: Case, teacher: Tensor) -> LossOfStudent:
    return lambda student: cross_entropy(student, teacher.argmax(dim=1))


PROVIDERS: tuple[Provider, ...] = (
    Provider(
        name="public",
        about="the published algorithm: top-k, one-hot masks, float32",
        bind=_public,
        supports=lambda case: case.max_positives == 3 and case.num_classes >= 4,
        ordered_ties=False,
    ),
    _engine_provider("eager"),
    Provider(
        name="torch_compile",
        about="torch.compile of the eager equations",
        bind=_compile_of_reference("default"),
        supports=lambda case: case.max_positives != 1,  # at K = 1 torch's own cross entropy is the peer
    ),
    Provider(
        name="torch_compile_autotuned",
        about="the same with max-autotune",
        bind=_compile_of_reference("max-autotune-no-cudagraphs"),
        supports=lambda case: case.max_positives != 1,
        refusal=lambda case, device: None if device.type == "cuda" else "it is tuned on GPUs only",
    ),
    _engine_provider("compiled"),
    _engine_provider("triton"),
    Provider(
        name="cross_entropy",
        about="torch cross entropy, labels at hand (K = 1)",
        bind=_hard_cross_entropy,
        plain_labels=True,
    ),
    Provider(
        name="argmax_cross_entropy",
        about="torch argmax and cross entropy (K = 1)",
        bind=_argmax_cross_entropy,
        plain_labels=True,
    ),
)
