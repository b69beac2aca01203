"""Adapters of Guided Collaborative Training: what our parts give for the inputs of each golden case."""

import numpy as np
import torch
from golden_cases import load_module

from fpl_fast import consistency_loss
from fpl_fast.trainer.methods.flaw_maps import blur_kernel, compare_flaws, flaw_target
from fpl_fast.trainer.methods.ramps import ramp
from fpl_fast.trainer.models.flaw_detector import FlawDetector


def tensors(case):
    return {name: torch.from_numpy(value) for name, value in case.inputs.items()}


def kernel(case):
    line = blur_kernel(case.params["kernel_size"])
    return {"kernel": torch.outer(line, line)}


def target(case):
    return {"target": flaw_target(**tensors(case)).unsqueeze(1)}


def comparison(case):
    given = tensors(case)
    left, right = (given[f"{side}_handled"].squeeze(1) for side in "lr")
    compared = compare_flaws(left, right, case.params["threshold"])
    p, q = given["l_probability"], given["r_probability"]
    return {
        "l_target": torch.where(compared.right_better.unsqueeze(1), q, p),
        "r_target": torch.where(compared.left_better.unsqueeze(1), p, q),
        "both_bad": compared.both_bad.unsqueeze(1),
    }


def consistency(case):
    """The logarithm of probabilities is their logits; the mean is over classes, too."""
    given, params = tensors(case), case.params
    logits = given["logits"].requires_grad_()
    loss = consistency_loss(logits, given["target"].log(), engine="eager") / logits.shape[1]
    loss = params["scale"] * params["ramp"] * loss
    (gradient,) = torch.autograd.grad(loss, logits)
    return {"loss": loss, "grad": gradient}


def detector(case):
    """Weights by their place: ours have other names in the same order."""
    golden, given, params = load_module(), tensors(case), case.params
    network = FlawDetector(given["probability"].shape[1])
    weights = golden.seeded_state(params["shapes"], params["seed"]).values()
    state = network.state_dict()
    assert [tuple(shape) for shape in params["shapes"].values()] == [tuple(value.shape) for value in state.values()]
    network.load_state_dict(dict(zip(state, map(torch.from_numpy, map(np.asarray, weights)), strict=True)))
    assert sum(p.numel() for p in network.parameters()) == params["num_parameters"]
    with torch.no_grad():
        return {mode: network.train(mode == "train")(**given).unsqueeze(1) for mode in ("eval", "train")}


ADAPTERS = {
    "gct.blur_kernel.": kernel,
    "gct.flaw_target.": target,
    "gct.consistency_target": comparison,
    "gct.consistency_loss": consistency,
    "gct.ramp": lambda case: {
        "value": np.array([ramp("sigmoid", step, case.params["length"]) for step in case.inputs["step"]])
    },
    "gct.flaw_detector.": detector,
}
"""By the beginning of a case's name."""
