"""Analysis of a run's positives on images whose truth is known, and the maps of some of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fpl_fast.trainer.data.sample import SegmentationDataset
from fpl_fast.trainer.data.transforms import normalize
from fpl_fast.trainer.evaluation.loss_settings import loss_settings, loss_threshold, spread
from fpl_fast.trainer.evaluation.positives import PositivesAnalysis, PositivesTally
from fpl_fast.trainer.evaluation.protocol import named_protocol, predict_logits
from fpl_fast.trainer.evaluation.trained import TrainedRun
from fpl_fast.trainer.models.normalization import normalization

__all__ = ["ScoreMaps", "analyze_positives"]


class ScoreMaps(NamedTuple):
    """Maps of one image; NaN and case 0 where the truth is not known."""

    name: str
    image: np.ndarray  # (H, W, 3) uint8
    label: np.ndarray  # (H, W) uint8
    prediction: np.ndarray  # (H, W) uint8, the teacher's
    case: np.ndarray  # (H, W) uint8
    vanilla: np.ndarray  # (H, W) float32
    fuzzy: np.ndarray  # (H, W) float32


@torch.inference_mode()
def analyze_positives(
    run: TrainedRun,
    dataset: SegmentationDataset,
    indices: Sequence[int],
    *,
    num_maps: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[PositivesAnalysis, list[ScoreMaps]]:
    """Compare the positives that a run's teacher gives with the truth, on whole images in evaluation mode.

    The student is the method's first network, the teacher its second one (the peer of CPS, an average), or the student
    itself. Threshold and cap are the run's.

    Args:
        run: The trained run.
        dataset: Images with labels, which the run should not have trained on with these labels.
        indices: Images to take.
        num_maps: Images whose maps are returned, spread over these.
        progress: Called with (images done, images in all).

    Raises:
        ValueError: An image has no label, or no pixel of any has a class.
    """
    config, settings = run.config, loss_settings(run.config.method)
    student, teacher = (run.fabric.to_device(network) for network in (run.networks[0], run.networks[-1]))
    protocol, device = named_protocol(config.eval.protocol, config.eval.window), run.fabric.device
    tally = PositivesTally(
        len(run.classes.names), max_positives=settings.max_positives, ignore_index=dataset.ignore_index
    )
    shown, maps = {indices[place] for place in spread(num_maps, len(indices))} if num_maps else set(), []

    def logits_of(network: nn.Module, image: Tensor) -> Tensor:
        with run.fabric.autocast():
            return predict_logits(network, protocol.part(image), protocol).float()

    for done, index in enumerate(indices, start=1):
        sample = dataset[index]
        if sample.label is None:
            raise ValueError(f"images to analyse must have labels, got none for {dataset.name(index)}")
        image = normalize(sample.image[None].to(device), None, *normalization(config))
        label = protocol.part(sample.label[None].to(device))
        z = logits_of(student, image)
        t = z if teacher is student else logits_of(teacher, image)
        score = tally.add(z, t, label, threshold=loss_threshold(settings, t))
        if index in shown:
            maps.append(
                ScoreMaps(
                    dataset.name(index),
                    protocol.part(sample.image).permute(1, 2, 0).numpy(),
                    label[0].to("cpu", torch.uint8).numpy(),
                    t.argmax(1)[0].to("cpu", torch.uint8).numpy(),
                    score.case[0].cpu().numpy(),
                    score.vanilla[0].float().cpu().numpy(),
                    score.fuzzy[0].float().cpu().numpy(),
                )
            )
        if progress is not None:
            progress(done, len(indices))
    return tally.result(), maps
