"""Cross-Consistency Training: decoders of perturbed features that match the main decoder on clean ones.

Source: Ouali et al., "Semi-Supervised Semantic Segmentation with Cross-Consistency Training" (CVPR 2020), as the public
code of Cross Pseudo Supervision re-implements it for its tables.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Literal

import torch
from torch import Tensor, nn

from fpl_fast import consistency_loss
from fpl_fast.trainer.config import ConfidencePart, MethodConfig, PseudoLabelConfig
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.methods.annealed import annealed_cross_entropy, annealed_threshold
from fpl_fast.trainer.methods.auxiliary_decoders import AuxiliaryDecoders, DecodersPart
from fpl_fast.trainer.methods.base import Losses, PseudoLabelMethod, TrainingSet, WithDecoder, label_engine
from fpl_fast.trainer.methods.batch import Batch
from fpl_fast.trainer.methods.consistency import Target, balance_factor, loss_telemetry, pseudo_label_loss
from fpl_fast.trainer.methods.distances import sum_of_divergences
from fpl_fast.trainer.methods.predictions import predict
from fpl_fast.trainer.methods.step_random import StepRandom
from fpl_fast.trainer.processes import weight_among_processes
from fpl_fast.trainer.upsample import pixel_size, upsample

__all__ = ["CctConfig", "CrossConsistencyTraining"]


@config_class
class CctConfig(PseudoLabelConfig, ConfidencePart, DecodersPart):
    """Cross-Consistency Training."""

    name: Literal["cct"] = "cct"
    """Training method; fixed by the recipe."""
    loss: Literal["ce", "fpl", "mse", "kl", "js"] = "fpl"  # type: ignore[assignment]  # wider, and nothing assigns it
    """Unsupervised loss: cross entropy with the pseudo-label, Fuzzy Positive Learning, or a distance between
    probabilities: the squared difference ("mse", as in the tables), or the divergences of the public code."""
    sup_loss: Literal["ce", "ohem", "annealed"] = "ce"  # type: ignore[assignment]
    """Supervised loss: cross entropy over labelled pixels, over the hard ones of each image only ("ohem"), or over
    those whose true class is less probable than a threshold, which rises during the first 40 % of the run
    ("annealed", as in the tables of PASCAL VOC)."""
    annealed_end: float = 0.99
    """"annealed": probability that the threshold rises to; 0.99 in the code of CPS, 0.9 in CCT's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.annealed_end <= 1, "method.annealed_end", "in (0, 1]", self.annealed_end)


class CrossConsistencyTraining(PseudoLabelMethod):
    """One network, with auxiliary decoders that are trained on unlabelled images and dropped afterwards.

    loss = sup + unsup_weight * mean over auxiliary decoders of L(decoder(perturbed h), main decoder(h))

    h is the feature map that the main decoder, the classifier, reads. L is the squared difference of probabilities, a
    mean over pixels and classes ("mse", weight 30 in the public code), another of its distances ("kl", "js"), or the
    pseudo-label cross entropy or the fuzzy positive loss in their place. No gradient flows into the target: L trains
    the auxiliary decoders and all that computes h, and the labelled images alone train the main decoder. With
    confidence_threshold, only pixels whose target is surer than it count. Labelled and unlabelled images go through
    the network one after the other. The main decoder is the network that is evaluated.

    The auxiliary decoders and what they draw: ``AuxiliaryDecoders``.
    """

    Config = CctConfig
    config: CctConfig

    def __init__(self, config: MethodConfig, make_network: Callable[[], nn.Module], *, ignore_index: int) -> None:
        super().__init__(config, make_network, ignore_index=ignore_index)
        self.decoders = AuxiliaryDecoders(self.config, self.network.classifier)

    @property
    def network(self) -> WithDecoder:
        """The network, whose classifier is the main decoder."""
        network: WithDecoder = self.networks[0]  # type: ignore[assignment]
        return network

    @property
    def num_unlabelled_views(self) -> int:
        """Number of unlabelled views: one, unmixed."""
        return 1

    def prepare(self, data: TrainingSet) -> None:
        """Check the classes that are background.

        Raises:
            ValueError: ``background`` names an index that is not a class, or no class or all of them.
        """
        self.decoders.check_background()

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup`` and ``loss_unsup``; telemetry of the pseudo-label losses."""
        config, x, (u,) = self.config, batch.labelled, batch.unlabelled
        annealed = self._annealed(progress) if config.sup_loss == "annealed" else None
        _, loss_sup = self.supervised(self.networks[0], x, annealed)
        main_logits, h = self.network.forward_with_decoded(u.image)
        main_logits, size = main_logits.detach(), pixel_size(u.valid)
        students = self.decoders(h, main_logits, size, StepRandom(batch.seed, h.device))
        counted = u.valid if config.ignore_padding else None
        if config.confidence_threshold > 0:
            sure = predict(main_logits, size).confidence > config.confidence_threshold
            counted = sure if counted is None else sure & counted
        loss, telemetry = self._consistency(students, main_logits, counted, size)
        if config.confidence_threshold > 0:
            assert counted is not None
            loss = loss * weight_among_processes(counted.sum())
            telemetry["sure"] = counted.float().mean()
        return Losses({"loss_sup": loss_sup, "loss_unsup": self.unsup_weight(progress) * loss}, telemetry)

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Count the labelled pixels, and the pixels of unlabelled images where padding alone decides which count."""
        counts = super().denominators(batch)
        if "loss_unsup" in counts:
            counts["loss_unsup"] = torch.count_nonzero(batch.unlabelled[0].valid)
            if self.config.confidence_threshold > 0:  # decided by predictions, and ``losses`` takes care of it
                del counts["loss_unsup"]
        return counts

    def _annealed(self, progress: float) -> Callable[[Tensor, Tensor], Tensor]:
        """Make the annealed supervised loss of a step."""
        config, num_classes = self.config, self.network.classifier.out_channels
        threshold = annealed_threshold(progress, num_classes, config.annealed_end)
        return partial(
            annealed_cross_entropy, threshold=threshold, ignore_index=self.ignore_index, engine=label_engine(config)
        )

    def _consistency(
        self, students: list[Tensor], main_logits: Tensor, counted: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute L, a mean over decoders, and its telemetry."""
        config, num = self.config, len(students)
        if config.loss == "js":
            # Their gradient passes through the mixture, too, which no fused loss has; q is made once for all decoders.
            with torch.no_grad():
                q = upsample(main_logits.float(), size).softmax(1)
            total = reduce(torch.add, [sum_of_divergences(z, q, counted) for z in students])
            pixels = q[:, 0].numel() if counted is None else counted.sum().clamp(min=1)
            return total / (num * q.shape[1] * pixels), {}
        # The decoders' outputs as one batch, so that one factor balances all.
        logits, target = torch.cat(students), Target(main_logits.repeat(num, 1, 1, 1))
        valid_mask = None if counted is None else counted.repeat(num, 1, 1)
        if config.loss == "mse" or config.loss == "kl":
            loss = consistency_loss(
                logits,
                **target._asdict(),
                kind=config.loss,
                size=size,
                valid_mask=valid_mask,
                engine=config.engine,
            )
            return loss / logits.shape[1], {}
        loss, stats = pseudo_label_loss(config, logits, target, size=size, valid_mask=valid_mask)
        return loss * balance_factor(config, stats), loss_telemetry(stats)
