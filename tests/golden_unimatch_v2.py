"""Adapters of UniMatch V2 and its evaluation: what our parts give for the inputs of each golden case."""

import golden_unimatch
import numpy as np
import torch
from torch import nn
from trainer_runs import method_config

from fpl_fast.trainer.evaluation.protocol import Protocol
from fpl_fast.trainer.methods import Batch, View, build_method
from fpl_fast.trainer.methods.predictions import predict
from fpl_fast.trainer.methods.step_random import StepRandom
from fpl_fast.trainer.methods.unimatch_v2 import complementary_dropout, flipped
from fpl_fast.trainer.methods.weak_strong import mixed_strong_views
from fpl_fast.trainer.models.features import PatchFeatures
from fpl_fast.trainer.models.network import build_network
from fpl_fast.trainer.models.perturbation import perturbed


class Recorded(nn.Module):
    """A network that gives the logits of a case, pass by pass, whatever it sees."""

    feature_channels = (3,)

    def __init__(self, inputs):
        super().__init__()
        names = ("x", "strong1", "strong2", "teacher")
        self.logits = nn.ParameterDict({name: inputs[f"logits_{name}"].clone() for name in names})

    def forward(self, image, *, factors=None, beside_clean=True):
        if not self.training:
            return self.logits["teacher"]
        if factors is None:
            return self.logits["x"]
        assert len(factors[0]) == len(image)
        assert not beside_clean
        return torch.cat([self.logits["strong1"], self.logits["strong2"]])


def step(case):
    """The whole method; images that no output depends on are noise."""
    inputs, params = {name: torch.from_numpy(array) for name, array in case.inputs.items()}, case.params
    num, size = len(inputs["label"]), tuple(params["size"])
    config = method_config(
        name="unimatch_v2", loss="ce", confidence_threshold=params["conf_thresh"], flip_group=num, engine="eager"
    )
    method = build_method(config, lambda: Recorded(inputs)).train()
    weak, noise = torch.randn_like(inputs["images_strong1"]), torch.randn_like(inputs["images_strong1"])
    u = View(weak, inputs["ignore"] != 255, strong=(inputs["images_strong1"], noise))
    boxes = (inputs["box1"], inputs["box2"])
    batch = Batch(View(weak, torch.ones_like(u.valid), inputs["label"]), (u,), strong_masks=boxes)

    terms = method(batch, 0.0).terms
    loss = sum(terms.values())
    loss.backward()
    assert all(logits.grad is None for logits in method.teacher.parameters())
    gradients = {f"grad_{name}": method.student.logits[name].grad for name in ("x", "strong1", "strong2")}
    mixed = mixed_strong_views(*method.partners(batch), boxes)[0]
    label = predict(inputs["logits_teacher"], size).label
    ignore = torch.where(boxes[0], flipped(inputs["ignore"], num), inputs["ignore"])
    assert torch.equal(mixed.valid, ignore != 255)
    return {
        "loss": loss,
        "loss_x": terms["loss_sup"] * 2,
        "loss_s1": terms["loss_unsup"] * 4,
        "loss_s2": terms["loss_unsup_2"] * 4,
        "mixed_image1": mixed.image,
        "label_mixed1": torch.where(boxes[0], flipped(label, num), label),
        "ignore_mixed1": ignore,
        **gradients,
    }


def dropout(case):
    """The drawn factors of the case, applied to all blocks; ours have the same form."""
    features, mask = (torch.from_numpy(case.inputs[name]) for name in ("features", "mask"))
    pairs, untouched = case.params["pairs"], case.params["num_untouched"]
    random = StepRandom(0, torch.device("cpu"))
    ours = complementary_dropout(random, mask.shape[1], random.chosen(pairs, 0.5)).flatten(1)
    for drawn in (mask.float(), ours):
        assert torch.equal(drawn[:pairs] + drawn[pairs:], torch.full_like(drawn[:pairs], 2.0))
        assert (drawn[:pairs] == 1).all(1).sum() == (drawn == 1).any(1).sum() / 2 == untouched
    maps = tuple(block.movedim(-1, 1).unsqueeze(-1) for block in features)  # tokens in one column
    blocks = perturbed(PatchFeatures(maps), (mask[..., None, None],), beside_clean=False).blocks
    return {"features": torch.stack([block.squeeze(-1).movedim(1, -1) for block in blocks])}


def parameters(case):
    """The public code's networks have two parts more that no loss reaches, which ours leave out.

    They are DINOv2's mask token, and the residual unit of a skip connection that the coarsest fusion does not have.
    """
    name = f"vit_{case.params['encoder_size']}_patch14_dinov2"
    network = build_network(name, 21, head="dpt", output_stride=None)
    head = network.head
    assert [layer.out_channels for layer in head.project] == case.params["out_channels"]
    assert head.channels == case.params["features"]
    backbone, ours, classifier, unused = (
        sum(p.numel() for p in part.parameters())
        for part in (network.backbone, head, network.classifier, head.fusions[0].skip)
    )
    assert head.fusions[3].skip is None
    return {
        "backbone": np.array(backbone + network.backbone.channels),
        "head": np.array(ours + classifier + unused),
    }


def evaluation(case):
    """Windows two thirds apart, rounded down: at 798, the recipe's, there is nothing to round."""
    crop = case.params["crop"]
    windows = Protocol(window=(crop, crop), stride=int(crop * 2 / 3) / crop, combine="probabilities")
    return golden_unimatch.evaluation(case, windows)


ADAPTERS = {
    "unimatch.unimatch_v2.": step,
    "unimatch_v2.complementary_dropout.": dropout,
    "unimatch_v2.parameters.": parameters,
    "evaluation_unimatch_v2.": evaluation,
}
