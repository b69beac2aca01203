"""The algorithm of the public code, as a baseline.

Source: the description of the published code in the FPL repository, reimplemented: top-4 selection, one-hot masks
filled with -1e7, float32 throughout.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from fpl_fast.bench.cases import THRESHOLD

__all__ = ["public_algorithm"]


def public_algorithm(
    student_logits: Tensor, teacher_logits: Tensor, *, threshold: float = THRESHOLD, weighting: str = "none"
) -> Tensor:
    """Compute the FPL loss as the published code does, a mean over all pixels.

    K is 1 where the two largest probabilities reach the threshold, else 2 where the three largest do, else 3.

    Args:
        student_logits: (N, C, H, W) with C >= 4.
        teacher_logits: (N, C, H, W), no gradient.
        threshold: in (0, 1].
        weighting: "none", "linear", "convex" (with r's factor 1) or "concave".
    """
    num_classes = student_logits.shape[1]
    z = student_logits.float().permute(0, 2, 3, 1)
    probability = teacher_logits.detach().float().softmax(dim=1).permute(0, 2, 3, 1)
    top, index = probability.topk(4, dim=-1)
    reached_by_two = top[..., :2].sum(-1) >= threshold
    reached_by_three = top[..., :3].sum(-1) >= threshold
    k = torch.where(reached_by_two, 1, torch.where(reached_by_three, 2, 3))

    positives = one_hot(index[..., 0], num_classes)
    for rank in (1, 2):
        positives = positives + one_hot(index[..., rank], num_classes) * (k > rank).unsqueeze(-1)
    excluded = -1e7
    log_positive = torch.where(positives == 1, -z, excluded).logsumexp(dim=-1)
    log_negative = torch.where(positives == 0, z, excluded).logsumexp(dim=-1)
    loss = softplus(log_positive + log_negative)
    if weighting == "none":
        return loss.mean()

    first_negative = top.gather(-1, k.unsqueeze(-1)).squeeze(-1)
    mean = top.cumsum(dim=-1).gather(-1, k.unsqueeze(-1)).squeeze(-1) / (k + 1)
    gap = mean - first_negative
    weight = {
        "linear": lambda: gap / mean,
        "convex": lambda: gap / (mean + first_negative),
        "concave": lambda: torch.log(1 + 50 * gap) / torch.log(1 + 50 * mean),
    }[weighting]()
    return (loss * weight.clamp(max=1)).mean()
