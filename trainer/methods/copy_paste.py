"""Adaptive Copy-Paste: pixels of badly learnt classes, copied from one labelled image into another."""

import torch
from torch import Tensor

from fpl_fast.trainer.methods.batch import View
from fpl_fast.trainer.methods.step_random import draw

__all__ = ["copy_paste", "query_classes"]


def query_classes(deficit: Tensor, targets: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """Draw the classes to paste, with replacement, with probability softmax(sqrt(1 - b)) among the targets.

    Args:
        deficit: 1 - b, (C,).
        targets: (C,) bool, the classes that may be drawn.
        num_draws: Draws; classes drawn twice count once.
        generator: On the device, with the same state in all processes.

    Returns:
        (C,) bool.
    """
    weight = deficit.sqrt().exp() * targets
    drawn = draw(weight.expand(num_draws, -1), generator)
    return torch.zeros_like(targets).index_fill_(0, drawn, True)


def copy_paste(view: View, source: View, query: Tensor) -> View:
    """Replace image and label where the source's label is one of the query classes, at the same place.

    Args:
        view: Labelled images.
        source: As many labelled images; one without labels pastes nothing.
        query: (C,) bool.
    """
    assert source.label is not None and view.label is not None
    known = (source.label >= 0) & (source.label < len(query))
    pasted = query[source.label.clamp(0, len(query) - 1)] & known
    return view._replace(
        image=torch.where(pasted.unsqueeze(1), source.image, view.image),
        valid=view.valid | pasted,
        label=torch.where(pasted, source.label, view.label),
    )
