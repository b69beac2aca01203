"""CAC: the features of a pixel must not depend on the context that a crop shows of it.

Source: Lai et al., "Semi-supervised Semantic Segmentation with Directional Context-aware Consistency" (CVPR 2021) and
its public code.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpl_fast.trainer.config import MethodConfig, PairedCropsPart
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.methods.base import Losses, Method, TrainingSet, WithDecoder
from fpl_fast.trainer.methods.batch import Batch
from fpl_fast.trainer.methods.info_nce import info_nce
from fpl_fast.trainer.methods.overlap import Overlap, find_overlap
from fpl_fast.trainer.methods.pixel_bank import PixelBank
from fpl_fast.trainer.methods.selection import sum_over_processes
from fpl_fast.trainer.methods.step_random import StepRandom
from fpl_fast.trainer.processes import gather_rows, rank_and_world_size
from fpl_fast.trainer.upsample import pixel_size

__all__ = ["CacConfig", "ContextAwareConsistency"]


@config_class
class CacConfig(PairedCropsPart, MethodConfig):
    """CAC."""

    name: Literal["cac"] = "cac"
    """Training method; fixed by the recipe."""
    unsup_weight: float = 0.1
    """Factor of the unsupervised loss."""
    confidence_threshold: float = 0.75
    """Probability that a cell's class must exceed to attract the same cell in the other crop."""
    temperature: float = 0.1
    """Divisor of the cosines of features."""
    feature_channels: int = 128
    """Channels of the features that are compared."""
    bank_steps: int = 3
    """Steps (with train.accumulate micro-batches) whose cells are negatives, this one included: in the public code 3
    with ResNet-101 and 2 with ResNet-50 on PASCAL VOC, 1 on Cityscapes."""
    bank_cells: int = 12_800
    """Most cells that a step (a micro-batch) adds from the first crops, and as many from the second ones, over all
    processes; in the public code all of them, 8 x 40 x 40 on PASCAL VOC and 8 x 90 x 90 on Cityscapes."""
    start_share: float = 0.0
    """Share of the run in which labelled images train alone: 5 epochs of 80 in the public code."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Random colours: largest relative changes of brightness, contrast and saturation, and largest shift of the hue as
    a part of the colour circle."""
    blur_sigma: tuple[float, float] = (1.1, 1.1)
    """Random colours: range of the blur's standard deviation, pixels; in the public code that of a kernel of 5 x 5."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.unsup_weight >= 0, "method.unsup_weight", ">= 0", self.unsup_weight)
        require(self.temperature > 0, "method.temperature", "> 0", self.temperature)
        for name in ("confidence_threshold", "start_share"):
            require(0 <= getattr(self, name) <= 1, f"method.{name}", "in [0, 1]", getattr(self, name))
        for name in ("feature_channels", "bank_steps", "bank_cells"):
            require(getattr(self, name) >= 1, f"method.{name}", ">= 1", getattr(self, name))


class Cells(NamedTuple):
    """Cells of a crop of each image, (h, w) of them."""

    feature: Tensor  # (N, h * w, D), of unit length
    label: Tensor  # (N, h * w) int64, predicted
    confidence: Tensor  # (N, h * w), probability of the label


class ContextAwareConsistency(Method):
    """One network that sees two overlapping crops of each unlabelled image.

    loss = sup + unsup_weight * (L_12 + L_21)

    A cell is a pixel of the decoder's features after halving their resolution: 8 x 8 pixels of the image. L_12 pulls
    the projected features of the cells of the first crop to those of the same cells in the second, which receive no
    gradient: those cells that the second crop is sure of, and surer than the first. It is InfoNCE (info_nce.py), a
    mean over these cells; negatives are the cells of both crops, and of earlier steps, with another predicted label.

    Differences from the public code: the mean spans the cells of all processes, and the loss takes the shares of
    all negatives at once.
    """

    Config = CacConfig
    config: CacConfig
    bank: PixelBank

    def __init__(self, config: MethodConfig, make_network: Callable[[], nn.Module], *, ignore_index: int) -> None:
        super().__init__(config, make_network, ignore_index=ignore_index)
        if self.size_multiple > 1:
            raise ValueError(
                "model.head must be one with logits at stride 4 for the method cac, such as 'cac', got one for patches "
                f"of {self.size_multiple} pixels"
            )
        classifier = self._network.classifier
        channels = classifier.in_channels
        self.projector = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, self.config.feature_channels, 1),
        ).to(classifier.weight.dtype)

    @property
    def num_unlabelled_views(self) -> int:
        """Number of unlabelled views: a pair of crops."""
        return 2

    def prepare(self, data: TrainingSet) -> None:
        """Make the memory bank."""
        config = self.config
        self.bank = PixelBank(config.bank_steps, 2 * config.bank_cells, config.feature_channels)
        # All processes add the same cells: DDP need not send them around.
        self._ddp_params_and_buffers_to_ignore = ["bank.keys", "bank.labels"]

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup`` and ``loss_unsup``; telemetry of the cells that are attracted."""
        config, (first_view, second_view) = self.config, batch.unlabelled
        _, loss_sup = self.supervised(self.networks[0], batch.labelled)
        if progress < config.start_share:
            nothing = self._without_effect(batch.labelled.image)
            return Losses({"loss_sup": loss_sup, "loss_unsup": nothing}, {"attracted": nothing.detach()})
        first, grid = self._cells(first_view.image)
        second, _ = self._cells(second_view.image)
        keys, labels = self._remember(first, second, StepRandom(batch.seed, loss_sup.device))
        overlap = find_overlap(first_view, second_view, grid)
        loss, attracted = self._directional_loss(first, second, overlap, keys, labels)
        terms = {"loss_sup": loss_sup, "loss_unsup": config.unsup_weight * loss}
        return Losses(terms, {"attracted": attracted})

    @property
    def _network(self) -> WithDecoder:
        network: WithDecoder = self.networks[0]  # type: ignore[assignment]
        return network

    def _cells(self, image: Tensor) -> tuple[Cells, tuple[int, int]]:
        """Compute the cells of crops, and how many there are along each axis."""
        _, decoded = self._network.forward_with_decoded(image)
        pooled = F.avg_pool2d(decoded, 2)
        feature = F.normalize(self.projector(pooled).float(), dim=1)
        with torch.no_grad():
            confidence, label = self._network.classify(pooled).float().softmax(1).max(1)
        cells = Cells(feature.flatten(2).transpose(1, 2), label.flatten(1), confidence.flatten(1))
        return cells, pixel_size(pooled)

    @torch.no_grad()
    def _remember(self, first: Cells, second: Cells, random: StepRandom) -> tuple[Tensor, Tensor]:
        """Add cells of all processes to the bank; returns the keys (K, D) that it holds, and their labels (K,)."""
        keys, labels = [], []
        for cells in (first, second):
            feature, label = gather_rows(cells.feature.contiguous()), gather_rows(cells.label)
            feature, label = feature.flatten(0, 1), label.flatten()
            if len(label) > self.config.bank_cells:
                chosen = random.common(len(label)).argsort()[: self.config.bank_cells]
                feature, label = feature[chosen], label[chosen]
            keys.append(feature)
            labels.append(label)
        self.bank.push(torch.cat(keys), torch.cat(labels))
        used = sum(map(len, labels))
        return self.bank.keys[:, :used].flatten(0, 1), self.bank.labels[:, :used].flatten()

    def _directional_loss(
        self, first: Cells, second: Cells, overlap: Overlap, keys: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute L_12 + L_21, and the share of the common cells that are attracted.

        A cell is attracted in one of the directions at most, so that both are computed at once.
        """
        other = Cells(*map(overlap.of_second, second))
        surest = torch.maximum(first.confidence, other.confidence) > self.config.confidence_threshold
        sure = overlap.common & surest
        directions = [sure & (first.confidence < other.confidence), sure & (other.confidence < first.confidence)]
        moves = directions[0].unsqueeze(-1)
        losses = info_nce(
            torch.where(moves, first.feature, other.feature).flatten(0, 1),
            torch.where(moves, other.feature, first.feature).detach().flatten(0, 1),
            torch.where(directions[0], first.label, other.label).flatten(),
            keys,
            labels,
            temperature=self.config.temperature,
        )
        counts = sum_over_processes(torch.stack([x.sum() for x in (*directions, overlap.common)]).float())
        weight = sum(x / count.clamp(min=1) for x, count in zip(directions, counts, strict=False))
        loss = (losses * weight.flatten()).sum() * rank_and_world_size()[1]
        return loss, counts[:2].sum() / counts[2].clamp(min=1)

    def _without_effect(self, image: Tensor) -> Tensor:
        """Compute a 0 that every weight of the projector has a part in."""
        classifier = self._network.classifier
        pixel = image.new_zeros(1, classifier.in_channels, 1, 1, dtype=classifier.weight.dtype)
        return 0 * self.projector(pixel).float().sum()
