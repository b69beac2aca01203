"""U2PL: pseudo-labels from reliable pixels, and unreliable pixels as examples of what they are not.

Source: Wang et al., "Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels" (CVPR 2022) and its public
code.
"""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpl_fast.trainer.config import EmaPart, MethodConfig, PairedCutMixPart, PseudoLabelConfig
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.methods.base import Losses, TrainingSet, WithFused
from fpl_fast.trainer.methods.batch import Batch, View, mix_views
from fpl_fast.trainer.methods.consistency import Target, balance_factor, loss_telemetry, pseudo_label_loss
from fpl_fast.trainer.methods.contrast import Pixels, contrastive_loss, push_keys
from fpl_fast.trainer.methods.ema import EmaMethod, ema_decay, ema_update
from fpl_fast.trainer.methods.key_bank import KeyBank
from fpl_fast.trainer.methods.predictions import predict_target
from fpl_fast.trainer.methods.step_random import StepRandom
from fpl_fast.trainer.methods.unreliable import entropy_map, percent_unreliable, percentiles
from fpl_fast.trainer.models.ael import RepresentationHead
from fpl_fast.trainer.processes import mean_over_processes
from fpl_fast.trainer.upsample import pixel_size

__all__ = ["U2pl", "U2plConfig"]


@config_class
class U2plConfig(PseudoLabelConfig, EmaPart, PairedCutMixPart):
    """U2PL."""

    name: Literal["u2pl"] = "u2pl"
    """Training method; fixed by the recipe."""
    mix_probability: float = 0.5
    """Share of the steps whose unlabelled images are CutMixed."""
    unreliable_percent: float = 20.0
    """Percentage of the unlabelled pixels that are unreliable at the start of the run; it falls linearly to 0."""
    contrast_weight: float = 1.0
    """Factor of the contrastive loss: 0.1 in the paper; 1 in the public code, which then divides it by the number of
    processes once more than it shows, 4 on PASCAL VOC and 8 on Cityscapes."""
    contrast_threshold: float = 0.3
    """Probability of its class that an anchor of the contrastive loss must exceed."""
    anchors: int = 256
    """Anchors that are drawn for each class."""
    negatives: int = 50
    """Keys that are drawn from the memory bank for each anchor."""
    bank_size: int = 30_000
    """Keys that the memory bank holds for each class but the first."""
    bank_size_first: int = 50_000
    """Keys that the memory bank holds for class 0."""
    keys_per_step: int = 1024
    """Most keys that a step adds for a class, spread over the pixels that qualify."""
    warmup_share: float = 0.0
    """Share of the run in which labelled images train alone: 1 epoch of 80 on PASCAL VOC, none on Cityscapes."""
    follow_share: float = 0.0
    """Share of the run in which the teacher's weights equal the student's after each step: until 2 epochs of 80 on
    PASCAL VOC, and 1 of 200 on Cityscapes."""
    published_indices: bool = False
    """Whether the contrastive loss has the three wrong indices of the public code: some classes are compared with keys
    of others, only pixels with the label of a class become keys that it is told from, and the first image of a batch
    carries the labels of all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mix_probability", "contrast_threshold", "warmup_share", "follow_share"):
            require(0 <= getattr(self, name) <= 1, f"method.{name}", "in [0, 1]", getattr(self, name))
        require(0 < self.unreliable_percent <= 50, "method.unreliable_percent", "in (0, 50]", self.unreliable_percent)
        require(self.contrast_weight >= 0, "method.contrast_weight", ">= 0", self.contrast_weight)
        for name in ("anchors", "negatives", "keys_per_step"):
            require(getattr(self, name) >= 1, f"method.{name}", ">= 1", getattr(self, name))
        for name in ("bank_size", "bank_size_first"):
            require(getattr(self, name) >= self.keys_per_step, f"method.{name}",
                     f">= {self.keys_per_step}, which is method.keys_per_step", getattr(self, name))  # fmt: skip


class U2pl(EmaMethod):
    """U2PL with the pseudo-label cross entropy or the fuzzy positive loss.

    loss = sup + unsup_weight * L + contrast_weight * L_c

    - L is the loss with the teacher's labels on pixels whose entropy is below a percentile, a mean over them times
      all / kept pixels. The labels come from the teacher in evaluation mode on unmixed images; the entropies, like the
      features of L_c, from its pass in train mode over what the student sees: labelled and mixed images as one batch.
    - L_c compares features of a parallel head (contrast.py): anchors of a class are drawn from its pixels of low
      entropy, keys from a bank of pixels that are unlike it, mostly of high entropy.

    The share of pixels of high entropy, and of low entropy, falls from unreliable_percent to 0. The teacher averages
    parameters only; its first steps use a smaller decay (``ema_decay``). It is the network that is evaluated.

    Differences from the public code: the percentages fall with each step instead of each epoch; percentiles, class
    means and draws span the images of all processes; at most keys_per_step keys of a class are added in a step; CutMix
    pastes from another loader's image with the boxes of the other methods, instead of from the next image of the batch.
    """

    Config = U2plConfig
    config: U2plConfig
    ema_warmup = True
    bank: KeyBank
    _progress: float = 0.0

    def __init__(self, config: MethodConfig, make_network: Callable[[], nn.Module], *, ignore_index: int) -> None:
        super().__init__(config, make_network, ignore_index=ignore_index)
        network: WithFused = self.networks[0]  # type: ignore[assignment]
        classifier = network.classifier
        head = RepresentationHead(network.fused_channels, classifier.in_channels).to(classifier.weight.dtype)
        self.heads = nn.ModuleList([head, copy.deepcopy(head).requires_grad_(False)])  # student's and teacher's

    @property
    def num_unlabelled_views(self) -> int:
        """Number of unlabelled views: two to mix."""
        return 2

    def prepare(self, data: TrainingSet) -> None:
        """Make the memory bank."""
        config, network = self.config, self.networks[0]
        sizes = [config.bank_size_first] + [config.bank_size] * (data.num_classes - 1)
        self.bank = KeyBank(sizes, network.classifier.in_channels)  # type: ignore[union-attr, arg-type]
        # All processes add the same keys: DDP need not send them around.
        self._ddp_params_and_buffers_to_ignore = ["bank.keys"]

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup``, ``loss_unsup`` and ``loss_contrast``; telemetry of the pseudo-label losses."""
        config, self._progress = self.config, progress
        if progress < config.warmup_share:
            return self._warm_up(batch.labelled)
        x, (u, partner) = batch.labelled, batch.unlabelled
        random = StepRandom(batch.seed, x.image.device)
        assert batch.mix_mask is not None
        mask = batch.mix_mask & (random.common(1) < config.mix_probability)
        target = self._target(u, partner, mask)
        mixed = mix_views(u, partner, mask)

        images, num = torch.cat([x.image, mixed.image]), len(x.image)
        logits, feature, loss_sup = self._student(images, x)
        with torch.no_grad():
            teacher_logits, teacher_feature = self._run(1, images)[::2]
            counted = mixed.valid if config.ignore_padding else torch.ones_like(mixed.valid)
            entropy = entropy_map(teacher_logits[num:], pixel_size(mask))
            percent = percent_unreliable(progress, config.unreliable_percent)
            low, high = percentiles(entropy, (percent, 100 - percent), counted)
        loss, telemetry = self._unsupervised(logits[num:], target, counted & (entropy < high), counted)
        terms = {"loss_sup": loss_sup, "loss_unsup": self.unsup_weight(progress) * loss}

        with torch.no_grad():
            reliable, unreliable = counted & (entropy <= low), counted & (entropy >= high)
            pixels = self._pixels(x, target, teacher_logits, teacher_feature, reliable, unreliable)
            num_classes = teacher_logits.shape[1]
            keys = push_keys(
                self.bank, pixels, random.common(num_classes, config.keys_per_step), published=config.published_indices
            )
        contrast = contrastive_loss(
            _rows(feature),
            pixels,
            self.bank,
            random.common(num_classes, config.anchors),
            random.common(num_classes, config.anchors, config.negatives),
            threshold=config.contrast_threshold,
            published=config.published_indices,
        )
        terms["loss_contrast"] = config.contrast_weight * contrast
        return Losses(terms, telemetry | {"keys": keys.float().mean()})

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Count labelled pixels; ``losses`` takes care of the pixels that entropies decide on."""
        counts = super().denominators(batch)
        counts.pop("loss_unsup", None)
        return counts

    def after_step(self, step: int) -> None:
        """Move the teacher and its representation head."""
        follows = self._progress < self.config.follow_share
        decay = 0.0 if follows else ema_decay(self.config.ema_decay, step)
        for student, teacher in (self.networks, self.heads):
            ema_update(teacher, student, decay, buffers=False)

    def _run(self, place: int, images: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Compute logits, auxiliary logits and features of the student, 0, or the teacher, 1."""
        network: WithFused = self.networks[place]  # type: ignore[assignment]
        logits, aux, fused = network.forward_with_fused(images)
        return logits, aux, self.heads[place](fused)

    def _student(self, images: Tensor, x: View) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the student's logits and features of images, and the supervised loss of the first, labelled ones."""
        logits, aux, feature = self._run(0, images)
        assert x.label is not None
        loss = self.supervised_loss(logits[: len(x.image)], x.label)
        if aux is not None:
            loss = loss + self.config.aux_weight * self.supervised_loss(aux[: len(x.image)], x.label)
        return logits, feature, loss

    def _warm_up(self, x: View) -> Losses:
        """Compute the supervised loss alone; the teacher's running statistics move, and every weight has a gradient."""
        with torch.no_grad():
            self._run(1, x.image)
        _, feature, loss = self._student(x.image, x)
        nothing = 0 * feature.float().sum()
        telemetry = dict.fromkeys(("mean_positives", "fpl_ce_ratio", "kept", "keys"), nothing.detach())
        return Losses({"loss_sup": loss, "loss_unsup": nothing, "loss_contrast": nothing}, telemetry)

    @torch.no_grad()
    def _target(self, u: View, partner: View, mask: Tensor) -> Target:
        """Compute the teacher's logits of unmixed images with its running statistics and without dropout."""
        self.teacher.eval()
        target = Target(self.teacher(u.image), self.teacher(partner.image), mask)
        self.teacher.train()
        return target

    def _unsupervised(
        self, logits: Tensor, target: Target, kept: Tensor, counted: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute L: a mean over the pixels that are kept, times counted / kept pixels, over all processes."""
        loss, stats = pseudo_label_loss(self.config, logits, target, size=pixel_size(kept), valid_mask=kept)
        num_kept = kept.sum().float()
        mean_kept, mean_counted = mean_over_processes(torch.stack([num_kept, counted.sum().float()]))
        weight = num_kept * mean_counted / mean_kept.clamp(min=1e-9).square()  # 0 / 0: no pixel is kept
        telemetry = loss_telemetry(stats) | {"kept": mean_kept / mean_counted.clamp(min=1e-9)}
        return loss * balance_factor(self.config, stats) * weight, telemetry

    def _pixels(
        self, x: View, target: Target, logits: Tensor, feature: Tensor, reliable: Tensor, unreliable: Tensor
    ) -> Pixels:
        """Bring labels and masks to the resolution of the features."""
        assert x.label is not None and target.partner_logits is not None and target.mix_mask is not None
        size, small = pixel_size(x.label), pixel_size(logits)
        label_u = predict_target(target, size).label
        labelled = x.label != self.ignore_index
        low, high = (nearest(torch.cat([labelled, mask]), small).flatten() for mask in (reliable, unreliable))
        masks = [
            class_masks(nearest(label, small), logits.shape[1], published=self.config.published_indices)
            for label in (x.label, label_u)
        ]
        probability = _rows(logits.float().softmax(1))
        num_labelled = len(x.label) * small[0] * small[1]
        return Pixels(torch.cat(masks).movedim(1, 0).flatten(1), probability, _rows(feature), low, high, num_labelled)


def class_masks(label: Tensor, num_classes: int, *, published: bool = False) -> Tensor:
    """Mark the pixels of each class, (N, C, h, w) bool, in labels (N, h, w).

    With ``published``, as in the public code by a wrong index: the first image carries the labels of all images, on its
    own labelled pixels, and the others carry none.
    """
    classes = torch.arange(num_classes, device=label.device).view(-1, 1, 1)
    masks = label.unsqueeze(1) == classes
    if not published:
        return masks
    first = masks.any(0) & masks[0].any(0)
    others = torch.zeros_like(masks[1:])
    return torch.cat([first.unsqueeze(0), others])


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring (N, H, W) to another size by nearest neighbours: pixel floor(i * H / h) of each line."""
    return F.interpolate(x.unsqueeze(1).float(), size, mode="nearest").squeeze(1).to(x.dtype)


def _rows(x: Tensor) -> Tensor:
    """Bring (N, D, h, w) to a row for each pixel, (N * h * w, D)."""
    return x.movedim(1, -1).flatten(0, 2)
