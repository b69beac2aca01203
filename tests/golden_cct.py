"""Adapters of Cross-Consistency Training: what our parts give for the inputs of each golden case."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fpl_fast import consistency_loss
from fpl_fast.trainer.methods.annealed import annealed_cross_entropy, annealed_threshold
from fpl_fast.trainer.methods.contours import erase_boxes, find_contours
from fpl_fast.trainer.methods.distances import sum_of_divergences
from fpl_fast.trainer.methods.perturbations import (
    add_noise,
    adversarial_noise,
    drop_channels,
    drop_salient,
    keep_pixels,
)
from fpl_fast.trainer.methods.ramps import ramp

ELSEWHERE = {
    "cct.icnr": "initial weights of decoders that shuffle pixels; ours upsample bilinearly, as the code of CPS"
}
"""Cases of parts that the trainer does not have, and why."""


def with_gradient(loss, logits):
    (gradient,) = torch.autograd.grad(loss, logits)
    return {"loss": loss, "grad": gradient}


def ramps(case):
    kind, length = case.name.removeprefix("cct.ramp.").removesuffix("_rampup"), case.params["length"]
    return {"value": np.array([ramp(kind, current, length) for current in case.inputs["current"]])}


def distance(case):
    """Means over classes and pixels that count; "kl" with a threshold is over all pixels, and over no classes.

    The logarithm of probabilities is their logits.
    """
    logits, target = (torch.from_numpy(case.inputs[name]) for name in ("logits", "target"))
    kind = case.name.split(".")[2].removesuffix("_conf")
    counted = target.amax(1) > case.params["threshold"] if "threshold" in case.params else None
    number = target.numel() if counted is None else counted.sum() * target.shape[1]
    if case.name.startswith("cct.loss.kl_conf"):
        number = target[:, 0].numel()
    logits.requires_grad_()
    if kind == "js":
        return with_gradient(sum_of_divergences(logits, target, counted) / number, logits)
    loss = consistency_loss(logits, target.log(), kind=kind, valid_mask=counted, reduction="sum", engine="eager")
    return with_gradient(loss / number, logits)


def annealed(case):
    params, logits = case.params, torch.from_numpy(case.inputs["logits"]).requires_grad_()
    step = params["epoch"] * params["iters_per_epoch"] + params["iteration"]
    threshold = annealed_threshold(
        step / (params["epochs"] * params["iters_per_epoch"]), params["num_classes"], params["end"]
    )
    loss = annealed_cross_entropy(logits, torch.from_numpy(case.inputs["label"]), threshold=threshold, engine="eager")
    outputs = with_gradient(loss, logits)
    return outputs | {"threshold": np.array(threshold)} if "threshold" in case.expected else outputs


def features(case):
    return torch.from_numpy(case.inputs["h"])


def objects(case) -> Tensor:
    """Foreground of a case's prediction."""
    return torch.from_numpy(case.inputs["prediction"]).argmax(1) > 0


def cutout(case):
    mask = objects(case)
    contours, size = find_contours(mask), tuple(mask.shape[1:])
    start = torch.full((len(mask), 2, contours.points.shape[1]), case.params["start_fraction"])
    kept = ~erase_boxes(contours, start, size, min_points=50)
    return {
        "mask_full": kept.unsqueeze(1).float(),
        "mask": keep_pixels(torch.ones(len(mask), 1, *case.expected["mask"].shape[2:]), kept),
    }


def adversarial(case):
    weights = {name: torch.from_numpy(value) for name, value in case.inputs.items()}

    def decoder(h):
        h = F.conv2d(h, weights["w.0.weight"])
        for i in (1, 2, 3):
            h = F.pixel_shuffle(F.conv2d(h, weights[f"w.{i}.conv.weight"], weights[f"w.{i}.conv.bias"]).relu(), 2)
        return h

    h, params = features(case), case.params
    noise = adversarial_noise(h, decoder, weights["d0"], xi=params["xi"], radius=params["eps"], num_images=len(h))
    return {"r_adv": noise, "r_norm": noise.flatten(1).norm(dim=1), "r_adv_float64": noise} | (
        {"logits_every_8th": decoder(h + noise)[..., ::8, ::8]}
    )


ADAPTERS = {
    "cct.ramp.": ramps,
    "cct.loss.": distance,
    "cct.annealed_ce.": annealed,
    "cct.feature_drop.": lambda case: {"out": drop_salient(features(case), torch.tensor(case.params["gamma"]))},
    "cct.feature_noise": lambda case: {"out": add_noise(features(case), torch.from_numpy(case.inputs["noise"]))},
    "cct.mask_object": lambda case: {"out": keep_pixels(features(case), ~objects(case))},
    "cct.cutout.": cutout,
    "cct.dropout": lambda case: {
        "out": drop_channels(features(case), torch.from_numpy(case.inputs["kept"]), case.params["rate"])
    },
    "cct.vat.": adversarial,
}
"""By the beginning of a case's name."""
