"""Interface of a training method: networks, the losses of a batch, and little else.

The loop uses nothing else. A method is one module, so that DDP wraps it as a whole and sees one forward pass a step.
Shapes: N images, C classes, (H, W) pixels of a crop, (h, w) pixels of a network's logits.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fpl_fast import cross_entropy, ohem_cross_entropy
from fpl_fast.label_losses import LabelEngine
from fpl_fast.trainer.config import ConsistencyConfig, MethodConfig, OptimConfig, PseudoLabelConfig
from fpl_fast.trainer.data.donors import DonorQueue
from fpl_fast.trainer.methods.batch import Batch, View, mix_views
from fpl_fast.trainer.methods.ramps import RampKind, ramp
from fpl_fast.trainer.upsample import pixel_size

__all__ = [
    "Losses",
    "Method",
    "Phase",
    "PseudoLabelMethod",
    "TrainingSet",
    "WithDecoder",
    "WithFused",
    "WithHigh",
    "label_engine",
]


def label_engine(config: MethodConfig) -> LabelEngine:
    """Engine of the losses with labels: "compiled", which they lack, becomes "auto"."""
    return "auto" if config.engine == "compiled" else config.engine


class WithAuxHead(Protocol):
    """A network with an auxiliary head."""

    def forward_with_aux(self, image: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """Compute main and auxiliary logits from (N, 3, H, W); options as of ``forward``."""
        ...


class WithDecoder(Protocol):
    """A network whose last layer is a 1 x 1 classifier."""

    @property
    def classifier(self) -> nn.Conv2d:
        """The last layer."""
        ...

    def classify(self, decoded: Tensor) -> Tensor:
        """Compute logits from the feature map that the classifier reads."""
        ...

    def forward_with_decoded(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits from (N, 3, H, W), and the feature map that the classifier reads."""
        ...


class WithFused(WithDecoder, Protocol):
    """A network whose decoder refines features that other heads may read as well."""

    @property
    def fused_channels(self) -> int:
        """Channels of these features."""
        ...

    def forward_with_fused(self, image: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Compute logits from (N, 3, H, W), auxiliary logits if there are any, and the features."""
        ...


class WithHigh(WithDecoder, Protocol):
    """A network whose encoder's last features other heads may read as well."""

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of the features that can be perturbed; the last ones are of the last features."""
        ...

    def forward_with_high(self, image: Tensor, **options: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        """Compute logits, auxiliary logits if there are any, and the last features; options as of ``forward``."""
        ...


class Losses(NamedTuple):
    """Losses and telemetry of one step."""

    terms: dict[str, Tensor]  # 0-d; their sum is minimised
    telemetry: dict[str, Tensor]  # 0-d, detached, for the log; on the device like the terms


class Phase(NamedTuple):
    """A further part of a step, which trains weights of its own with an optimiser of its own.

    The weights are frozen (``requires_grad``) outside of the phase, so that the optimiser of the networks leaves them
    alone. The terms are means over equally many images or pixels in every micro-batch and process.
    """

    module: nn.Module  # a part of the method
    optimizer: Optimizer  # of the module's parameters
    losses: Callable[[Batch, float], Losses]  # as Method.losses, with names of their own


class TrainingSet(NamedTuple):
    """Sizes that a method's memory banks depend on."""

    num_classes: int
    num_unlabelled: int  # unlabelled images
    batch_unlabelled: int  # unlabelled images in a batch, over all processes


class Method(nn.Module, ABC):
    """A training method.

    Args:
        config: The method's numbers.
        make_network: Makes a network (N, 3, H, W) -> (N, C, h, w) of logits.
        ignore_index: Label of pixels that the supervised loss leaves out.
    """

    Config: ClassVar[type[MethodConfig]]
    """Settings of the method; their ``name`` is its name."""
    num_networks: int = 1
    config: MethodConfig

    def __init__(self, config: MethodConfig, make_network: Callable[[], nn.Module], *, ignore_index: int) -> None:
        super().__init__()
        self.config = config
        self.ignore_index = ignore_index
        self.networks = nn.ModuleList(make_network() for _ in range(self.num_networks))

    @property
    def num_unlabelled_views(self) -> int:
        """Number of views of unlabelled images in a step: 0, 1, or 2 to mix."""
        return 0

    @property
    def donors(self) -> DonorQueue | None:
        """Images of the second unlabelled view, where the method chooses them; None for a random order."""
        return None

    @property
    def reads_paste_sources(self) -> bool:
        """Whether batches need labelled images to paste from."""
        return False

    def prepare(self, data: TrainingSet) -> None:
        """Create the buffers whose size depends on the data set; called before training only."""

    @property
    def size_multiple(self) -> int:
        """Number of pixels that the sides of a crop must be a multiple of, for the networks."""
        return getattr(self.networks[0], "size_multiple", 1)

    @property
    def eval_network(self) -> nn.Module:
        """The network that is evaluated and used."""
        return self.networks[0]

    @property
    def peers(self) -> list[nn.Module]:
        """The networks that learn from each other; the evaluated one where none does."""
        return list(self.networks) if self.num_networks > 1 else [self.eval_network]

    @property
    def teacher(self) -> nn.Module:
        """The network that makes pseudo-labels; of networks that teach each other, the evaluated one."""
        return self.eval_network

    @abstractmethod
    def losses(self, batch: Batch, progress: float) -> Losses:
        """The losses of one step, in train mode.

        Args:
            batch: Labelled and unlabelled views.
            progress: Share of the run done, in [0, 1).
        """

    def forward(self, batch: Batch, progress: float) -> Losses:
        """Call ``losses``; wrappers such as DDP need this name."""
        return self.losses(batch, progress)

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Count the pixels, 0-d, of each term that is a mean over a number of pixels that differs between batches.

        The numbers are known before the networks run, so that micro-batches and processes are weighted by their pixels
        (accumulate.py). The other terms are means over equally many images or pixels in every micro-batch, or are
        normalised by the networks' outputs.
        """
        counts = {}
        if self.config.sup_loss == "ce":  # "ohem" is a mean over groups of images
            assert batch.labelled.label is not None
            counts["loss_sup"] = batch.labelled.label.ne(self.ignore_index).sum()
        return counts

    def later_phases(self) -> list[Phase]:
        """Make the phases that follow in each step once the networks have moved; called on the device."""
        return []

    def after_step(self, step: int) -> None:
        """Called after each optimiser step, counted from 0, for example to move an average of the weights."""

    def param_groups(self, config: OptimConfig) -> list[dict[str, Any]]:
        """Group the parameters by learning rate and weight decay, for the optimiser.

        Tensors of two or more dimensions decay, others (biases, normalisation) only with ``decay_all``. ``lr_scale`` of
        a group is its factor of the learning rate: ``head_lr_scale`` for parameters outside a network's ``backbone``.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                scale = 1.0 if ".backbone." in name else config.head_lr_scale
                decay = config.weight_decay if parameter.ndim > 1 or config.decay_all else 0.0
                groups.setdefault((scale, decay), []).append(parameter)
        return [
            {"params": parameters, "lr_scale": scale, "weight_decay": decay}
            for (scale, decay), parameters in groups.items()
        ]

    def supervised(
        self,
        network: nn.Module,
        view: View,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        unlabelled: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """Compute a network's logits of labelled images and a loss of logits and labels.

        A network with an auxiliary head (``aux_head`` is not None) adds the loss of that head's logits, times
        ``aux_weight``.

        Args:
            network: Any of the method's.
            view: The labelled images.
            loss: Loss to compute; by default the supervised one.
            unlabelled: (M, 3, H, W), images that share the pass and its normalisation; their logits follow.
            options: Keywords of the network.
        """
        label, image = view.label, view.image
        assert label is not None
        loss = loss or self.supervised_loss
        if unlabelled is not None:
            image = torch.cat([image, unlabelled])
        if getattr(network, "aux_head", None) is None:
            logits = network(image, **options)
            return logits, loss(logits[: len(label)], label)
        logits, aux = cast("WithAuxHead", network).forward_with_aux(image, **options)
        main_loss, aux_loss = (loss(z[: len(label)], label) for z in (logits, aux))
        return logits, main_loss + self.config.aux_weight * aux_loss

    def supervised_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compute the cross entropy with labels, plain or on hard pixels, at the size of the labels.

        Args:
            logits: (N, C, h, w).
            label: (N, H, W) int64.

        Returns:
            0-d mean over the pixels that count; 0 when there is none.
        """
        keywords: dict[str, Any] = {
            "ignore_index": self.ignore_index,
            "size": pixel_size(label),
            "engine": label_engine(self.config),
        }
        if self.config.sup_loss == "ohem":
            config = self.config
            return ohem_cross_entropy(
                logits, label, min_kept=config.ohem_min_kept, group_size=config.ohem_group, **keywords
            )
        return cross_entropy(logits, label, **keywords)


class PseudoLabelMethod(Method):
    """A method with a loss on pseudo-labels."""

    config: PseudoLabelConfig

    def unsup_weight(self, progress: float) -> float:
        """Compute the factor of the unsupervised loss, which may rise over the first part of the run."""
        kind: RampKind = self.config.ramp_kind
        return self.config.unsup_weight * ramp(kind, progress, self.config.ramp_share)

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Count pixels of the supervised loss and, if it leaves out padding, of the unsupervised loss."""
        counts = super().denominators(batch)
        divided_by_all = isinstance(self.config, ConsistencyConfig) and self.config.divide_by_all
        if self.config.ignore_padding and not divided_by_all and batch.unlabelled:
            if batch.mix_mask is not None:  # the student sees the mixture, otherwise all images unmixed
                u, partner = batch.unlabelled
                valid = mix_views(u, partner, batch.mix_mask).valid
            else:
                valid = torch.cat([view.valid for view in (batch.labelled, *batch.unlabelled)])
            counts["loss_unsup"] = torch.count_nonzero(valid)
        return counts
