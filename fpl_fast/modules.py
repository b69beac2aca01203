"""The losses as modules: options are fixed and checked at construction, tensors are given with every call.

Options are attributes. A float option that follows a schedule may be set between steps, compiled or not.
"""

import inspect
from typing import Any, ClassVar

from torch import Tensor, nn

from fpl_fast import checks
from fpl_fast.functional import (
    Engine,
    Form,
    LossStats,
    Reduction,
    Weighting,
    fuzzy_positive_loss,
    pseudo_label_cross_entropy,
)
from fpl_fast.labelled import LabelEngine, LabelReduction, cross_entropy, ohem_cross_entropy


class _Criterion(nn.Module):
    """Keeps the arguments of the constructor as attributes of their names."""

    _defaults: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        cls._defaults = {parameter.name: parameter.default for parameter in parameters}

    def _keep(self, options: dict[str, Any]) -> None:
        super().__init__()
        for name in self._defaults:
            if isinstance(options[name], Tensor):
                self.register_buffer(name, options[name], persistent=False)
            else:
                setattr(self, name, options[name])

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._defaults}

    def extra_repr(self) -> str:
        """Options that differ from the defaults."""
        changed = ((name, getattr(self, name)) for name in self._defaults)
        return ", ".join(
            f"{name}={checks.shown(value)}"
            for name, value in changed
            if isinstance(value, Tensor) or value != self._defaults[name]
        )


class FuzzyPositiveLoss(_Criterion):
    """:func:`fpl_fast.fuzzy_positive_loss` with its options fixed at construction.

    Args:
        threshold: Cumulative probability at which a pixel's positives stop; all options are as in the function.
        max_positives: Cap on K.
        weighting: Confidence weight.
        convex_scale: Factor of r in the convex weight.
        size: (H, W) that all logits are upsampled to.
        align_corners: Of the upsampling; the default is True, in PyTorch's own interpolation False.
        confidence_threshold: Gate; below ``threshold``, or the loss is a plain cross entropy.
        confidence_power: Exponent of the teacher's confidence.
        balance: Whether to rescale the loss to the value of the plain cross entropy.
        form: "smooth" or "hinge".
        reduction: "none", "sum", "mean" or "weighted_mean".
        return_stats: Whether to return a pair of loss and :class:`LossStats`.
        engine: "auto", "triton", "compiled" or "eager".

    Raises:
        ValueError: If an option breaks a rule.

    Example:
        >>> criterion = FuzzyPositiveLoss(threshold=0.9, max_positives=3, weighting="concave")
        >>> loss = criterion(torch.randn(2, 19, 32, 32), torch.randn(2, 19, 32, 32))
        >>> criterion
        FuzzyPositiveLoss(max_positives=3, weighting='concave')
    """

    def __init__(
        self,
        *,
        threshold: float = 0.9,
        max_positives: int | None = None,
        weighting: Weighting = "none",
        convex_scale: float = 1.0,
        size: tuple[int, int] | None = None,
        align_corners: bool = True,
        confidence_threshold: float = 0.0,
        confidence_power: float = 0.0,
        balance: bool = False,
        form: Form = "smooth",
        reduction: Reduction = "mean",
        return_stats: bool = False,
        engine: Engine = "auto",
    ) -> None:
        checks.check_options(threshold, max_positives, convex_scale)
        checks.check_confidence(confidence_threshold, confidence_power)
        checks.check_choice("weighting", weighting, checks.WEIGHTINGS)
        checks.check_choice("form", form, checks.FORMS)
        checks.check_choice("reduction", reduction, checks.REDUCTIONS)
        checks.check_choice("engine", engine, checks.ENGINES)
        checks.check_size(size)
        checks.check_flag("align_corners", align_corners)
        checks.check_flag("balance", balance)
        checks.check_flag("return_stats", return_stats)
        self._keep(locals())

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        pixel_weight: Tensor | None = None,
        valid_mask: Tensor | None = None,
        partner_logits: Tensor | None = None,
        mix_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LossStats]:
        """Evaluate the loss; the tensors are as in the function."""
        result: Tensor | tuple[Tensor, LossStats] = fuzzy_positive_loss(
            student_logits,
            teacher_logits,
            pixel_weight=pixel_weight,
            valid_mask=valid_mask,
            partner_logits=partner_logits,
            mix_mask=mix_mask,
            **self._options(),
        )
        return result


class PseudoLabelCrossEntropy(_Criterion):
    """:func:`fpl_fast.pseudo_label_cross_entropy` with its options fixed at construction.

    Args:
        size: (H, W) that all logits are upsampled to; all options are as in the function.
        align_corners: Of the upsampling; the default is True, in PyTorch's own interpolation False.
        confidence_threshold: Gate.
        confidence_power: Exponent of the teacher's confidence.
        reduction: "none", "sum", "mean" or "weighted_mean".
        return_stats: Whether to return a pair of loss and :class:`LossStats`.
        engine: "auto", "triton", "compiled" or "eager".

    Raises:
        ValueError: If an option breaks a rule.

    Example:
        >>> criterion = PseudoLabelCrossEntropy(confidence_threshold=0.95)
        >>> loss = criterion(torch.randn(2, 19, 32, 32), torch.randn(2, 19, 32, 32))
    """

    def __init__(
        self,
        *,
        size: tuple[int, int] | None = None,
        align_corners: bool = True,
        confidence_threshold: float = 0.0,
        confidence_power: float = 0.0,
        reduction: Reduction = "mean",
        return_stats: bool = False,
        engine: Engine = "auto",
    ) -> None:
        checks.check_confidence(confidence_threshold, confidence_power)
        checks.check_choice("reduction", reduction, checks.REDUCTIONS)
        checks.check_choice("engine", engine, checks.ENGINES)
        checks.check_size(size)
        checks.check_flag("align_corners", align_corners)
        checks.check_flag("return_stats", return_stats)
        self._keep(locals())

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        pixel_weight: Tensor | None = None,
        valid_mask: Tensor | None = None,
        partner_logits: Tensor | None = None,
        mix_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LossStats]:
        """Evaluate the loss; the tensors are as in the function."""
        return pseudo_label_cross_entropy(
            student_logits,
            teacher_logits,
            pixel_weight=pixel_weight,
            valid_mask=valid_mask,
            partner_logits=partner_logits,
            mix_mask=mix_mask,
            **self._options(),
        )


class CrossEntropy(_Criterion):
    """:func:`fpl_fast.cross_entropy` with its options fixed at construction.

    Args:
        ignore_index: Label of pixels that contribute nothing; all options are as in the function.
        weight: (C,) class weights; a buffer that moves with the module and is not saved with it.
        size: (H, W) that the logits are upsampled to.
        align_corners: Of the upsampling; the default is True, in PyTorch's own interpolation False.
        reduction: "none", "sum" or "mean".
        engine: "auto", "triton" or "eager".

    Raises:
        ValueError: If an option breaks a rule.

    Example:
        >>> criterion = CrossEntropy(size=(128, 128))
        >>> loss = criterion(torch.randn(2, 19, 32, 32), torch.randint(0, 19, (2, 128, 128)))
    """

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        weight: Tensor | None = None,
        size: tuple[int, int] | None = None,
        align_corners: bool = True,
        reduction: LabelReduction = "mean",
        engine: LabelEngine = "auto",
    ) -> None:
        checks.check_ignore_index(ignore_index)
        checks.check_class_weight(weight, None)
        checks.check_choice("reduction", reduction, checks.LABEL_REDUCTIONS)
        checks.check_choice("engine", engine, checks.LABEL_ENGINES)
        checks.check_size(size)
        checks.check_flag("align_corners", align_corners)
        self._keep(locals())

    def forward(self, logits: Tensor, target: Tensor, *, pixel_weight: Tensor | None = None) -> Tensor:
        """Evaluate the loss; the tensors are as in the function."""
        return cross_entropy(logits, target, pixel_weight=pixel_weight, **self._options())


class OhemCrossEntropy(_Criterion):
    """:func:`fpl_fast.ohem_cross_entropy` with its options fixed at construction.

    Args:
        min_kept: Pixels kept per group at least; all options are as in the function.
        threshold: Probability up to which a pixel is hard in any case.
        group_size: Images that are mined together.
        ignore_index: Label of pixels that contribute nothing.
        size: (H, W) that the logits are upsampled to.
        align_corners: Of the upsampling; the default is True, in PyTorch's own interpolation False.
        engine: "auto", "triton" or "eager".

    Raises:
        ValueError: If an option breaks a rule.

    Example:
        >>> criterion = OhemCrossEntropy(min_kept=1000, size=(128, 128))
        >>> loss = criterion(torch.randn(2, 19, 32, 32), torch.randint(0, 19, (2, 128, 128)))
    """

    def __init__(
        self,
        *,
        min_kept: int,
        threshold: float = 0.7,
        group_size: int = 1,
        ignore_index: int = 255,
        size: tuple[int, int] | None = None,
        align_corners: bool = True,
        engine: LabelEngine = "auto",
    ) -> None:
        checks.check_mining(min_kept, threshold, group_size)
        checks.check_ignore_index(ignore_index)
        checks.check_choice("engine", engine, checks.LABEL_ENGINES)
        checks.check_size(size)
        checks.check_flag("align_corners", align_corners)
        self._keep(locals())

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Evaluate the loss; the tensors are as in the function."""
        return ohem_cross_entropy(logits, target, **self._options())
