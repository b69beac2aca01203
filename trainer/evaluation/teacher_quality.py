"""Quality of a teacher's pseudo-labels on some validation images, measured at every evaluation."""

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from fpl_fast.reference import assign_positives
from fpl_fast.trainer.config import PseudoLabelConfig, RunConfig
from fpl_fast.trainer.data.sample import SegmentationDataset
from fpl_fast.trainer.data.transforms import normalize
from fpl_fast.trainer.evaluation.loss_settings import loss_settings, loss_threshold, spread
from fpl_fast.trainer.evaluation.protocol import named_protocol, predict_logits
from fpl_fast.trainer.models.normalization import normalization
from fpl_fast.valid_labels import is_labelled

__all__ = ["teacher_quality"]

_IMAGES = 8
_NAMES = ("teacher_accuracy", "teacher_inclusion", "teacher_positives", "teacher_confidence")


@torch.inference_mode()
def teacher_quality(
    teacher: nn.Module, dataset: SegmentationDataset, config: RunConfig, fabric: Fabric
) -> dict[str, float]:
    """Compare a teacher with the truth, on eight images spread evenly over a data set, in evaluation mode.

    Threshold and cap are the run's, or the defaults of FPL for a method without them. Images are read by the protocol
    of evaluation: in training, where teachers see augmented crops, most of them in train mode, they can be worse.
    ``fpl-fast analyze`` compares more, on all images.

    Returns:
        Means over the pixels whose truth is known, NaN without any: ``teacher_accuracy``, the share whose pseudo-label
        is right; ``teacher_inclusion``, the share whose truth is among the fuzzy positives; ``teacher_positives``, K;
        ``teacher_confidence``, the probability of the pseudo-label.
    """
    settings = loss_settings(config.method)
    protocol = named_protocol(config.eval.protocol, config.eval.window)
    sums = torch.zeros(5, dtype=torch.float64, device=fabric.device)
    was_training = teacher.training
    teacher.eval()
    for index in spread(_IMAGES, len(dataset)):
        sample = dataset[index]
        assert sample.label is not None
        image = normalize(sample.image[None].to(fabric.device), None, *normalization(config))
        with fabric.autocast():
            logits = predict_logits(teacher, protocol.part(image), protocol)
        label = protocol.part(sample.label[None].to(fabric.device, torch.int64))
        sums += _sums(logits, label, dataset.ignore_index, settings)
    teacher.train(was_training)
    return dict(zip(_NAMES, (sums[1:] / sums[0]).tolist(), strict=True))


def _sums(logits: Tensor, label: Tensor, ignore_index: int, settings: PseudoLabelConfig) -> Tensor:
    """Sum 1 and the four quantities over the labelled pixels, (5,) float64."""
    cap = logits.shape[1] if settings.max_positives is None else settings.max_positives
    assignment = assign_positives(logits, loss_threshold(settings, logits), cap)
    known = is_labelled(label, ignore_index)
    truth = label.where(known, 0)
    held = assignment.positives.gather(1, truth.unsqueeze(1)).squeeze(1)
    right = assignment.pseudo_label == truth
    values = [torch.ones_like(truth), right, held, assignment.num_positives, assignment.confidence]
    return torch.stack([value[known].double().sum() for value in values])
