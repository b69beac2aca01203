"""Adapters of CorrMatch and its evaluation: what our parts give for the inputs of each golden case."""

import golden_unimatch
import numpy as np
import torch
from torch import nn
from trainer_runs import method_config

from fpl_fast.trainer.methods import Batch, View, build_method
from fpl_fast.trainer.methods.predictions import predict
from fpl_fast.trainer.methods.regions import moved_threshold
from fpl_fast.trainer.models.correlation import Correlation, CorrelationHead, region_masks, relative_similarity
from fpl_fast.trainer.models.network import build_network


class Recorded(nn.Module):
    """A network that gives the logits of a case, pass by pass, whatever it sees."""

    feature_channels = (2, 3)

    def __init__(self, inputs):
        super().__init__()
        names = ("x", "weak", "fp", "strong", "weak_partner", "x_corr", "weak_corr", "strong_corr")
        self.logits = nn.ParameterDict({name: inputs[f"logits_{name}"].clone() for name in names})
        self.classifier = nn.Conv2d(4, inputs["logits_x"].shape[1], 1)

    def forward(self, image):
        assert not self.training
        return self.logits["weak_partner"]

    def forward_with_high(self, image, *, factors=None):
        z = self.logits
        if factors is None:
            return z["strong"], None, z["strong_corr"]
        logits = torch.cat([z["x"], z["weak"], torch.full_like(z["x"], torch.nan), z["fp"]])
        return logits, None, torch.cat([z["x_corr"], z["weak_corr"]])


class Spread(nn.Module):
    """A correlation head whose logits are what the recorded network passes on as features."""

    def forward(self, features, logits, size):
        num_pixels = features[0, 0].numel()
        return Correlation(features, torch.zeros(len(features), num_pixels, num_pixels))


def step(case):
    """The whole method; images that no output depends on are noise."""
    inputs, params = {name: torch.from_numpy(array) for name, array in case.inputs.items()}, case.params
    width = inputs["label"].shape[-1]
    regions = torch.from_numpy(np.unpackbits(case.inputs["regions"], axis=-1, count=width).astype(bool))
    config = method_config(
        name="corrmatch",
        loss="ce",
        gated=True,
        confidence_threshold=params["theta"],
        num_regions=params["num_regions"],
        published_kl=True,
        engine="eager",
    )
    method = build_method(config, lambda: Recorded(inputs)).train()
    method.correlation, method._regions = Spread(), lambda *_: regions
    found, labels = [], method._labels
    method._labels = lambda *arguments: found.append(labels(*arguments)) or found[-1]
    image = torch.randn(len(regions), 3, *params["size"])
    u, partner = (View(image, inputs[name] != 255, strong=(image,)) for name in ("ignore", "ignore_partner"))
    x = View(image, torch.ones_like(u.valid), inputs["label"])
    terms = method(Batch(x, (u, partner), strong_masks=(inputs["box"],)), 0.0).terms
    loss = sum(terms.values())
    loss.backward()

    logits, weights, (after,) = method.networks[0].logits, params["weights"], found
    weak, pasted = (predict(logits[name], tuple(params["size"])).label for name in ("weak", "weak_partner"))
    spread = terms["loss_spread"] + terms["loss_spread_weak"]
    assert logits["weak_partner"].grad is None
    return {
        "loss": loss,
        "loss_x": terms["loss_sup"] / weights["x"],
        "loss_x_corr": terms["loss_sup_spread"] / weights["x_corr"],
        "loss_s": terms["loss_unsup"] / weights["s"],
        "loss_kl": terms["loss_kl"] / weights["kl"],
        "loss_fp": terms["loss_features"] / weights["fp"],
        "loss_corr": spread / weights["corr"],
        "theta": method.threshold,
        "label_before": torch.where(inputs["box"], pasted, weak),
        "label_after": after.mixed,
        "confident_before": after.mixed_sure,
        "confident_after": after.mixed_sure | after.changed,
        **{
            f"grad_{name}": torch.zeros_like(z) if z.grad is None else z.grad
            for name, z in logits.items()
            if name != "weak_partner"
        },
    }


def threshold(case):
    """Five steps of the moving threshold."""
    params, size = case.params, tuple(case.params["size"])
    moved, values, new = torch.tensor(params["start"]), [], []
    for logits, ignore in zip(*(torch.from_numpy(case.inputs[name]) for name in ("logits", "ignore")), strict=True):
        arguments = (predict(logits, size), ignore != 255, logits.shape[1])
        moved = moved_threshold(moved, *arguments, params["momentum"])
        values.append(moved)
        counted = (ignore != 255).any()  # in the last step no pixel is valid
        new.append(moved_threshold(torch.tensor(0.0), *arguments, 0.0) if counted else torch.nan)
    return {"threshold": torch.stack(values).double(), "new": np.array([float(value) for value in new])}


def correlation(case):
    """The head behind its projection, and the regions of the drawn pixels."""
    inputs, size = (
        {name: torch.from_numpy(array) for name, array in case.inputs.items()},
        tuple(case.params["full_size"]),
    )
    feature, rows = inputs["feature"].requires_grad_(), inputs["rows"]
    assert len(rows) == case.params["num_rows"]
    head = CorrelationHead(3, feature.shape[1], inputs["logits"].shape[1])
    head.project = nn.Identity()
    layers = {"conv1": head.first, "conv2": head.second}
    for name, layer in layers.items():
        layer.load_state_dict({kind: inputs[f"w.{name}.{kind}"] for kind in ("weight", "bias")})
    found = head(feature, inputs["logits"], size)
    (found.logits * inputs["output_weight"]).sum().backward()
    regions = region_masks(found.affinity, rows, tuple(feature.shape[-2:]), size)
    images = found.affinity.detach()[:, rows].unflatten(2, feature.shape[-2:])
    similarity = torch.stack([relative_similarity(image, size) for image in images])
    recorded = torch.from_numpy(np.unpackbits(case.expected["regions"], axis=-1, count=size[1]).astype(bool))
    regions = torch.where((similarity - 0.5).abs() < 1e-5, recorded, regions)  # there, rounding decides
    gradients = {
        f"grad_w.{name}.{kind}": p.grad for name, layer in layers.items() for kind, p in layer.named_parameters()
    }
    # This bias adds the same to a whole row of the softmax: its gradient is 0, and what was recorded is rounding.
    bias = gradients["grad_w.conv2.bias"]
    assert bias.abs().max() < 1e-5 * gradients["grad_w.conv1.bias"].abs().max()
    gradients["grad_w.conv2.bias"] = case.expected["grad_w.conv2.bias"]
    return {
        "out": found.logits,
        "regions": np.packbits(regions.numpy(), axis=-1),
        "grad_feature": feature.grad,
        **gradients,
    }


def parameters(case):
    network = build_network("resnet101", 21, head="unimatch", output_stride=8)
    encoder = network.backbone.encoder
    for name, dilations in case.params["dilations"].items():
        blocks = list(getattr(encoder, name))
        assert [str(block.conv2.dilation) for block in blocks[: len(dilations)]] == dilations
        assert len({block.conv2.dilation for block in blocks[len(dilations) - 1 :]}) == 1
    correlation = CorrelationHead(2048, 256, 21)
    parts = {
        "backbone": [network.backbone],
        "head": [network.head.aspp],
        "reduce": [network.head.low],
        "fuse": [network.head.refine],
        "classifier": [network.classifier],
        "corr": [correlation.first, correlation.second],
        "proj": [correlation.project],
    }
    return {name: np.array(sum(p.numel() for m in part for p in m.parameters())) for name, part in parts.items()}


def evaluation(case):
    """The IoU of a class is a part of one here, the mean per cent."""
    outputs = golden_unimatch.evaluation(case)
    return outputs | {"iou": outputs["iou"] / 100}


ADAPTERS = {
    "corrmatch.step.": step,
    "corrmatch.threshold": threshold,
    "corrmatch.correlation.": correlation,
    "corrmatch.parameters.": parameters,
    "evaluation_corrmatch.": evaluation,
}
