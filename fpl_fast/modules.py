"""The losses as modules: options are fixed and checked at construction, tensors are given with every call.

A module takes the options of its function, with their defaults, and keeps them as attributes. A float option that
follows a schedule may be set between steps, compiled or not.
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Unpack

from torch import Tensor, nn

from fpl_fast import checks
from fpl_fast.consistency import ConsistencyOptions, consistency_loss
from fpl_fast.functional import (
    FuzzyPositiveOptions,
    LossStats,
    PseudoLabelOptions,
    fuzzy_positive_loss,
    pseudo_label_cross_entropy,
)
from fpl_fast.label_losses import CrossEntropyOptions, OhemOptions, cross_entropy, ohem_cross_entropy


class _Criterion(nn.Module):
    """A function of tensors and options: its parameters that ``forward`` lacks are those of the constructor.

    So are those for which ``forward`` has another default: what is given with a call goes before what was fixed.
    """

    _function: ClassVar[Callable[..., Any]]
    _rules: ClassVar[dict[str, checks.Rule]]
    _defaults: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        of_a_call = inspect.signature(cls.forward).parameters
        parameters = inspect.signature(cls._function).parameters.values()
        options = [x for x in parameters if x.name not in of_a_call or of_a_call[x.name].default != x.default]
        cls._defaults = {option.name: option.default for option in options}
        cls.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # for help() and editors

    def __init__(self, **options: Any) -> None:
        try:
            bound = inspect.signature(type(self)).bind(**options)
        except TypeError as error:  # of names that the function lacks, or that must be given
            raise TypeError(f"{type(self).__name__}() {error}") from None
        bound.apply_defaults()
        checks.check_options(self._rules, **bound.arguments)
        super().__init__()
        for name, value in bound.arguments.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value, persistent=False)
            else:
                setattr(self, name, value)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._defaults}

    def extra_repr(self) -> str:
        """Options that differ from the defaults."""
        return ", ".join(
            f"{name}={checks.shown(value)}"
            for name, value in self._options().items()
            if isinstance(value, Tensor) or value != self._defaults[name]
        )


class FuzzyPositiveLoss(_Criterion):
    """:func:`fpl_fast.fuzzy_positive_loss` with its options fixed at construction.

    Args:
        options: Those of the function, with its defaults: all keywords but the tensors of a call. A ``threshold``
            given with a call replaces the constructor's.

    Raises:
        ValueError: If an option breaks a rule.

    Example:
        >>> criterion = FuzzyPositiveLoss(threshold=0.9, max_positives=3, weighting="concave")
        >>> loss = criterion(torch.randn(2, 19, 32, 32), torch.randn(2, 19, 32, 32))
        >>> criterion
        FuzzyPositiveLoss(max_positives=3, weighting='concave')
    """

    _function = staticmethod(fuzzy_positive_loss)
    _rules = checks.LOSS_RULES

    def __init__(self, *, return_stats: bool = False, **options: Unpack[FuzzyPositiveOptions]) -> None:
        super().__init__(return_stats=return_stats, **options)

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        threshold: Tensor | None = None,
        pixel_weight: Tensor | None = None,
        valid_mask: Tensor | None = None,
        partner_logits: Tensor | None = None,
        mix_mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LossStats]:
        """Evaluate the loss; the tensors are as in the function."""
        options = self._options() if threshold is None else self._options() | {"threshold": threshold}
        result: Tensor | tuple[Tensor, LossStats] = fuzzy_positive_loss(
            student_logits,
            teacher_logits,
            pixel_weight=pixel_weight,
            valid_mask=valid_mask,
            partner_logits=partner_logits,
            mix_mask=mix_mask,
            **options,
        )
        return result


class PseudoLabelCrossEntropy(_Criterion):
    """:func:`fpl_fast.pseudo_label_cross_entropy` with its options fixed at construction.

    Args:
        options: Those of the function, with its defaults: all keywords but the tensors of a call.

    Raises:
        ValueError: If an option breaks a rule.

    Example:
        >>> criterion = PseudoLabelCrossEntropy(confidence_threshold=0.95)
        >>> loss = criterion(torch.randn(2, 19, 32, 32), torch.randn(2, 19, 32, 32))
    """

    _function = staticmethod(pseudo_label_cross_entropy)
    _rules = checks.LOSS_RULES

    def __init__(self, *, return_stats: bool = False, **options: Unpack[PseudoLabelOptions]) -> None:
        super().__init__(return_stats=return_stats, **options)

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


class ConsistencyLoss(_Criterion):
    """:func:`fpl_fast.consistency_loss` with its options fixed at construction.

    Args:
        options: Those of the function, with its defaults: all keywords but the tensors of a call.

    Raises:
        ValueError: If an option breaks a rule.

    Example:
        >>> criterion = ConsistencyLoss(kind="kl", size=(128, 128))
        >>> loss = criterion(torch.randn(2, 19, 32, 32), torch.randn(2, 19, 32, 32))
    """

    _function = staticmethod(consistency_loss)
    _rules = checks.CONSISTENCY_RULES

    def __init__(self, **options: Unpack[ConsistencyOptions]) -> None:
        super().__init__(**options)

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        pixel_weight: Tensor | None = None,
        valid_mask: Tensor | None = None,
        partner_logits: Tensor | None = None,
        mix_mask: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the loss; the tensors are as in the function."""
        return consistency_loss(
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
        options: Those of the function, with its defaults: all keywords but ``pixel_weight``. ``weight`` is a buffer
            that moves with the module and is not saved with it.

    Raises:
        ValueError: If an option breaks a rule.

    Example:
        >>> criterion = CrossEntropy(size=(128, 128))
        >>> loss = criterion(torch.randn(2, 19, 32, 32), torch.randint(0, 19, (2, 128, 128)))
    """

    _function = staticmethod(cross_entropy)
    _rules = checks.LABEL_RULES

    def __init__(self, **options: Unpack[CrossEntropyOptions]) -> None:
        super().__init__(**options)

    def forward(self, logits: Tensor, target: Tensor, *, pixel_weight: Tensor | None = None) -> Tensor:
        """Evaluate the loss; the tensors are as in the function."""
        return cross_entropy(logits, target, pixel_weight=pixel_weight, **self._options())


class OhemCrossEntropy(_Criterion):
    """:func:`fpl_fast.ohem_cross_entropy` with its options fixed at construction.

    Args:
        options: Those of the function, with its defaults; ``min_kept`` must be given.

    Raises:
        ValueError: If an option breaks a rule.

    Example:
        >>> criterion = OhemCrossEntropy(min_kept=1000, size=(128, 128))
        >>> loss = criterion(torch.randn(2, 19, 32, 32), torch.randint(0, 19, (2, 128, 128)))
    """

    _function = staticmethod(ohem_cross_entropy)
    _rules = checks.LABEL_RULES

    def __init__(self, **options: Unpack[OhemOptions]) -> None:
        super().__init__(**options)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Evaluate the loss; the tensors are as in the function."""
        return ohem_cross_entropy(logits, target, **self._options())
