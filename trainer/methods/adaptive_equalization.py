"""Adaptive Equalization Learning: an average teacher, with sampling and pasting in favour of badly learnt classes.

Source: Hu et al., "Semi-Supervised Semantic Segmentation via Adaptive Equalization Learning" (NeurIPS 2021) and its
public code, with Fuzzy Positive Learning (CVPR 2023) as an option of the loss.
"""

from typing import Literal

import torch
from torch import Tensor

from fpl_fast.trainer.config import (
    AugmentConfig,
    ConfidencePart,
    CutMixPart,
    EmaPart,
    PastePart,
    PseudoLabelConfig,
    TrainConfig,
)
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.config.training import BATCHES_AHEAD
from fpl_fast.trainer.data.donors import DonorQueue
from fpl_fast.trainer.methods.banks import ConfidenceBank, CutMixBank
from fpl_fast.trainer.methods.base import Losses, TrainingSet, label_engine
from fpl_fast.trainer.methods.batch import Batch, mix_views
from fpl_fast.trainer.methods.components import random_component_box
from fpl_fast.trainer.methods.consistency import Target, balance_factor, loss_telemetry, pseudo_label_loss
from fpl_fast.trainer.methods.copy_paste import copy_paste, query_classes
from fpl_fast.trainer.methods.ema import EmaMethod
from fpl_fast.trainer.methods.predictions import class_confidence, predict
from fpl_fast.trainer.methods.step_random import StepRandom, draw
from fpl_fast.trainer.processes import weight_among_processes
from fpl_fast.trainer.upsample import pixel_size

__all__ = ["AdaptiveEqualizationLearning", "AelConfig"]


@config_class
class AelConfig(PseudoLabelConfig, EmaPart, ConfidencePart, CutMixPart, PastePart):
    """Adaptive Equalization Learning."""

    name: Literal["ael"] = "ael"
    """Training method; fixed by the recipe."""
    confidence_power: float = 2.0
    """Exponent of the teacher's confidence as a pixel weight."""
    equalize_power: float = 1.0
    """Exponent of a class's rate of sampling; 0 samples all pixels."""
    bank_momentum: float = 0.999
    """Momentum of the bank of confidences, a step."""
    paste_draws: int = 3
    """Classes drawn a step to be pasted; 3 on Cityscapes, 1 on PASCAL VOC."""
    paste_exclude: tuple[int, ...] = ()
    """Classes that are never pasted. The public code excludes 0, 1, 2, 8 and 10: on Cityscapes road, sidewalk,
    building, vegetation and sky; on PASCAL VOC, background (0) and, without justification, four objects."""
    component_area: float = 0.005
    """Share of the image that a component must exceed for CutMix to paste it; 0.005 on Cityscapes, 0.03 on PASCAL
    VOC."""
    bank_area: float = 0.01
    """Share of an image from which a class counts as present in it; 0.01 on Cityscapes, 0.03 on PASCAL VOC."""
    donor_lead: int = 24
    """Steps between the choice of a CutMix donor and its use; loaders read it in between."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("confidence_power", "equalize_power"):
            require(getattr(self, name) >= 0, f"method.{name}", ">= 0", getattr(self, name))
        for name in ("bank_momentum", "component_area", "bank_area"):
            require(0 <= getattr(self, name) <= 1, f"method.{name}", "in [0, 1]", getattr(self, name))
        for name in ("paste_draws", "donor_lead"):
            require(getattr(self, name) >= 1, f"method.{name}", ">= 1", getattr(self, name))

    def check_run(self, train: TrainConfig, augment: AugmentConfig) -> None:
        """Check that donors are chosen before loaders ask for them."""
        read_ahead = BATCHES_AHEAD * train.workers
        require(self.donor_lead > read_ahead, "method.donor_lead",
                 f"> {read_ahead}, the batches that train.workers read ahead", self.donor_lead)  # fmt: skip


class AdaptiveEqualizationLearning(EmaMethod):
    """AEL with the pseudo-label cross entropy or the fuzzy positive loss.

    loss = sup + unsup_weight * (L(labelled composites) + L(mixed unlabelled images))

    With the confidence bank b (``ConfidenceBank``) and the deficit 1 - b:

    - Copy-Paste pastes pixels of classes drawn by softmax(sqrt(1 - b)) into the labelled images;
    - CutMix pastes the bounding box of a large component of a class drawn by softmax(1 - b), out of an image that the
      CutMix bank knows to hold it; where the teacher finds no such component, a random box of half the area;
    - a pixel that the student predicts as class c enters L with probability ((1 - b_c) / max(1 - b)) ** equalize_power;
    - its weight is conf ** confidence_power, with the teacher's confidence conf, over the sum of these weights in the
      batch. Pixels below confidence_threshold count in this sum, but their loss is left out.

    The teacher averages parameters only, and runs in train mode with dropout. Its first steps use a smaller decay
    (``ema_decay``): it starts as a copy. It is the network that is evaluated.

    Differences from the public code:

    - Banks (banks.py) and the sum of the confidence weights see the images of all processes; the bank of confidences
      moves after the step instead of within it.
    - Components and shares of classes are taken from predictions at the resolution of the logits.
    - Donors are chosen ``donor_lead`` steps before they are used.
    - Each image has one field of random numbers for the equalisation, instead of one per class for all images.

    As in the public code, "fpl" leaves confidence_threshold out, and its balance leaves the pixel weights out.
    """

    Config = AelConfig
    config: AelConfig
    ema_warmup = True
    bank: ConfidenceBank
    cutmix_bank: CutMixBank
    queue: DonorQueue
    paste_targets: Tensor
    _random: StepRandom

    @property
    def num_unlabelled_views(self) -> int:
        """Two: the loader's image and its donor."""
        return 2

    @property
    def donors(self) -> DonorQueue:
        """Images for the second unlabelled view."""
        return self.queue

    @property
    def reads_paste_sources(self) -> bool:
        """Whether batches hold labelled images to paste from."""
        return self.config.paste_probability > 0

    def prepare(self, data: TrainingSet) -> None:
        """Make the banks and choose the first donors.

        Raises:
            ValueError: ``paste_exclude`` names an index that is not a class, or leaves no class to paste.
        """
        config, num_classes = self.config, data.num_classes
        unknown = [c for c in config.paste_exclude if not 0 <= c < num_classes]
        if unknown:
            raise ValueError(f"method.paste_exclude must hold classes 0 ... {num_classes - 1}, got {unknown[0]}")
        targets = torch.tensor([c not in config.paste_exclude for c in range(num_classes)])
        if not targets.any():
            got = config.paste_exclude
            raise ValueError(f"method.paste_exclude must leave one of the {num_classes} classes, got {got}")
        self.register_buffer("paste_targets", targets, persistent=False)
        self.bank = ConfidenceBank(num_classes, config.bank_momentum)
        self.cutmix_bank = CutMixBank(num_classes, data.num_unlabelled)
        self.queue = DonorQueue(self._choose_donors((config.donor_lead, data.batch_unlabelled)))

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup``, ``loss_labelled`` and ``loss_unsup``, with telemetry of losses and adaptive parts."""
        x, (u, donor) = batch.labelled, batch.unlabelled
        self._random = random = StepRandom(batch.seed, x.image.device)
        if batch.paste is not None:
            query = query_classes(self.bank.deficit, self.paste_targets, self.config.paste_draws, random.generator)
            x = copy_paste(x, batch.paste, query)
        logits_x, loss_sup = self.supervised(self.student, x)
        assert x.label is not None and donor.wanted is not None and batch.mix_mask is not None
        if self.config.sup_loss == "ce":  # "ohem" is a mean over groups of images
            loss_sup = loss_sup * weight_among_processes(x.label.ne(self.ignore_index).sum())
        with torch.no_grad():
            target_x = Target(self.teacher(x.image))
            believed = self.teacher(torch.cat([u.image, donor.image]))
            teacher_logits, donor_logits = believed.chunk(2)
            mask, found = self._component_mask(donor_logits, donor.wanted, batch.mix_mask)
            target_u = Target(teacher_logits, donor_logits, mask)
            for view, logits in ((u, teacher_logits), (donor, donor_logits)):
                assert view.index is not None
                self.cutmix_bank.update(view.index, logits.argmax(1), self.config.bank_area)
        mixed = mix_views(u, donor, mask)
        logits_u = self.student(mixed.image)
        self.bank.observe(
            *class_confidence(
                logits_x.detach(), x.label, ignore_index=self.ignore_index, engine=label_engine(self.config)
            )
        )

        loss_x, telemetry_x = self._consistency(logits_x, target_x, x.valid)
        loss_u, telemetry_u = self._consistency(logits_u, target_u, mixed.valid)
        telemetry = {
            **telemetry_u,
            "sampled_labelled": telemetry_x["sampled"],
            "adaptive_boxes": found.float().mean(),
            "bank_mean": self.bank.confidence.mean(),
            "bank_min": self.bank.confidence.amin(),
        }
        weight = self.unsup_weight(progress)
        terms = {"loss_sup": loss_sup, "loss_labelled": weight * loss_x, "loss_unsup": weight * loss_u}
        return Losses(terms, telemetry)

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Return no denominators: they depend on Copy-Paste and on predictions, and ``losses`` takes care of them."""
        return {}

    def after_step(self, step: int) -> None:
        """Move the teacher and the bank, and choose the donors of a later step."""
        super().after_step(step)
        self.bank.step()
        self.queue.push(self._choose_donors((self.queue.batch_size,), self._random.generator))

    def _choose_donors(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Draw images to paste from and the class wanted from each, (*shape, 2)."""
        wanted = draw(self.bank.deficit.exp().expand(*shape, -1), generator)
        return torch.stack([self.cutmix_bank.draw_images(wanted, generator), wanted], dim=-1)

    def _component_mask(self, donor_logits: Tensor, wanted: Tensor, random_box: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the mask to paste, (N, H, W) bool: a box around a component of the wanted class, or the random box.

        Also returns, (N,) bool, whether there was such a component.
        """
        label = donor_logits.argmax(1)
        lot = self._random.rows(len(label), label[0].numel() + 1)
        box, found = random_component_box(label == wanted.view(-1, 1, 1), self.config.component_area, lot)
        for dim in (1, 2):  # each pixel takes the nearest logit, with aligned corners
            nearest = torch.linspace(0, box.shape[dim] - 1, random_box.shape[dim], device=box.device).round().long()
            box = box.index_select(dim, nearest)
        return torch.where(found.view(-1, 1, 1), box, random_box), found

    def _consistency(self, logits: Tensor, target: Target, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute L of one input, and its telemetry."""
        config, size = self.config, pixel_size(valid)
        with torch.no_grad():
            keep_rate = (self.bank.deficit / self.bank.deficit.amax()) ** config.equalize_power
            label = predict(logits, size).label
            sampled = (self._random.rows(*label.shape) >= 1 - keep_rate[label]).float()
        loss, stats = pseudo_label_loss(
            config,
            logits,
            target,
            size=size,
            valid_mask=valid if config.ignore_padding else None,
            pixel_weight=sampled,
            confidence_threshold=0.0 if config.loss == "fpl" else config.confidence_threshold,
            confidence_power=config.confidence_power,
            reduction="weighted_mean",
        )
        loss = loss * balance_factor(config, stats) * weight_among_processes(stats.weight_sum)
        shares = {"confidence": stats.mean_confidence, "selected": stats.selected_share, "sampled": sampled.mean()}
        return loss, loss_telemetry(stats) | shares
