"""Adapters of CAC: what our parts give for the inputs of each golden case."""

import importlib
from types import SimpleNamespace

import numpy as np
import torch
from golden_cases import load_module
from torch import nn
from trainer_runs import method_config

from fpl_fast.trainer.data.long_side import LongSideAugmentation
from fpl_fast.trainer.data.paired_crops import PairedCrops
from fpl_fast.trainer.data.sample import Sample
from fpl_fast.trainer.methods import Batch, Place, View, build_method
from fpl_fast.trainer.models.network import build_network


class Recorded(nn.Module):
    """A network that gives the decoder's features of a case, view after view, and no gradient to its classifier."""

    def __init__(self, inputs):
        super().__init__()
        weight, bias = inputs["w.classifier.1.weight"], inputs["w.classifier.1.bias"]
        self.classifier = nn.Conv2d(*weight.shape[1::-1], 1)
        self.classifier.load_state_dict({"weight": weight, "bias": bias})
        self.features = [inputs["h1"].requires_grad_(), inputs["h2"].requires_grad_()]

    def forward(self, image):
        return torch.zeros(len(image), self.classifier.out_channels, 2, 2, requires_grad=True)

    def forward_with_decoded(self, image):
        decoded = self.features[int(image.flatten()[0])]
        return self.classify(decoded), decoded

    def classify(self, decoded):
        return self.classifier(decoded)


class Chosen:
    """Random numbers that sort the cells of a case's choice to the front, view after view."""

    def __init__(self, selected):
        self.selected = list(selected)

    def common(self, num):
        order = torch.ones(num)
        chosen = self.selected.pop(0)
        order[chosen] = torch.arange(len(chosen)) / (2 * len(chosen))
        return order


def prepared(case):
    """The method with the weights of a case, its crops, and the choice of cells."""
    inputs, params = {name: torch.from_numpy(array) for name, array in case.inputs.items()}, case.params
    project = {name.removeprefix("w.project."): value for name, value in inputs.items() if "project" in name}
    config = method_config(
        name="cac",
        confidence_threshold=params["threshold"],
        temperature=params["temperature"],
        unsup_weight=params["weight"],
        feature_channels=len(project["2.weight"]),
        bank_steps=params["step_save"] + 1,
        bank_cells=params["selected_num"],
        engine="eager",
    )
    method = build_method(config, lambda: Recorded(inputs)).train()
    method.projector.load_state_dict(project)
    return method, inputs, params


def views(params, num):
    """Crops without padding; the second one's place follows from the corners of what both share."""
    corners = [np.array(params[name]) for name in ("upper_left1", "upper_left2")]
    for number, (offset, flip) in enumerate(
        zip((corners[1] * 0, corners[0] - corners[1]), (params["flip1"], params["flip2"]), strict=True)
    ):
        valid = torch.ones(num, params["crop"], params["crop"], dtype=torch.bool)
        place = Place(torch.from_numpy(offset).expand(num, 2), torch.tensor(flip))
        yield View(torch.full((num, 3, 8, 8), float(number)), valid, place=place)


def step(case):
    """A case that follows one that is not stored gives what does not depend on the bank."""
    method, inputs, params = prepared(case)
    method.prepare(None)
    golden, num_before = load_module(), params["step_save"]
    known = set(golden.cases())
    before = params["previous"][-num_before:] if num_before else []
    for name in known.intersection(before):
        earlier, given, _ = prepared(golden.load(name))
        cells = [earlier._cells(torch.full((1, 3, 8, 8), float(i)))[0] for i in range(2)]
        method._remember(*cells, Chosen([given["selected1"], given["selected2"]]))
    first, second = views(params, len(inputs["h1"]))
    label = torch.zeros(len(inputs["h1"]), 8, 8, dtype=torch.int64)
    labelled = View(torch.zeros(len(label), 3, 8, 8), label == 0, label)

    module = importlib.import_module("fpl_fast.trainer.methods.context_consistency")
    random, module.StepRandom = module.StepRandom, lambda *_: Chosen([inputs["selected1"], inputs["selected2"]])
    try:
        terms = method.losses(Batch(labelled, (first, second)), 0.0).terms
    finally:
        module.StepRandom = random
    terms["loss_unsup"].backward()
    with torch.no_grad():
        cells = [method._cells(view.image)[0] for view in (first, second)]
    size = tuple(side // 2 for side in inputs["h1"].shape[-2:])
    found = {"loss_unsup": terms["loss_unsup"]}
    for number, cell in enumerate(cells, start=1):
        found |= {
            f"label{number}": cell.label.unflatten(1, size),
            f"confidence{number}": cell.confidence.unflatten(1, size),
            f"feature{number}": cell.feature.transpose(1, 2).unflatten(2, size),
            f"grad_h{number}": method.networks[0].features[number - 1].grad,
        }
    found |= {f"grad.project.{name}": p.grad for name, p in method.projector.named_parameters()}
    found["grad_h1_every_8th"] = found["grad_h1"][..., ::8, ::8]
    kept = method.bank.labels[: len(before) + 1].flip(0).flatten()
    found |= {"bank_size": np.array(len(kept)), "bank_labels": in_order_of_choice(kept, inputs).to(torch.uint8)}
    if not known.issuperset(before):
        found = {name: value for name, value in found.items() if name.startswith(("label", "confidence", "feature"))}
    return {name: value for name, value in found.items() if name in case.expected}


def in_order_of_choice(kept, inputs):
    """Our bank keeps the order of the cells where it takes all of them."""
    chosen, per_view = [inputs[name] for name in ("selected1", "selected2")], inputs["h1"][:, 0].numel() // 4
    if len(chosen[0]) < per_view:
        return kept
    return torch.cat([part[order] for part, order in zip(kept.split(per_view), chosen, strict=True)])


def pair(case):
    """Colours are left out; what both crops share is told from their places and validity."""
    params, crop = case.params, case.params["crop"]
    draws = iter([draw[3] for draw in params["draws"]])
    rng = SimpleNamespace(integers=lambda *_: next(draws), random=lambda: next(draws))
    augmentation = LongSideAugmentation(
        (crop, crop), (0.8, 2.0), pad_color=(124, 116, 104), base_size=params["base_size"], bicubic=True
    )
    pairs = PairedCrops(augmentation, lambda image, _: image.unsqueeze(0), params["stride"], tuple(params["iou"]))
    image, label = torch.from_numpy(case.inputs["image"]).movedim(-1, 0), torch.from_numpy(case.inputs["label"])
    sample = Sample(image, label)
    found = pairs(sample, rng)
    assert next(draws, None) is None
    size = augmentation.draw_size(sample, SimpleNamespace(integers=lambda *_: params["draws"][0][3]))
    labels = [
        augmentation.cut(augmentation.resize(sample, size), size, offset.tolist(), flip=flip).label
        for offset, flip in zip(found.offset, found.flipped, strict=True)
    ]
    (first, second), whole = found.offset.numpy(), np.array(size) // params["stride"] * params["stride"]
    corners = {}
    for number, shift in ((1, second - first), (2, first - second)):
        corners[f"upper_left{number}"] = np.maximum(shift, 0)
        corners[f"lower_right{number}"] = np.minimum(np.minimum(crop, crop + shift), whole)
    return {"images": found.image.movedim(1, -1), "labels": torch.stack(labels), **corners}


def parameters(case):
    with torch.device("meta"):
        network = build_network("resnet101", 21, head="cac", stem="plain")
    encoder = network.backbone.encoder
    assert list(encoder.conv1.weight.shape) == case.params["stem"]
    assert [str(block.conv2.dilation) for block in encoder.layer4] == case.params["layer4_dilation"]

    def count(*modules):
        return np.array(sum(p.numel() for module in modules for p in module.parameters()))

    head = network.head
    return {"backbone": count(encoder), "aspp": count(head.aspp), "decoder": count(head.low, head.refine)}


ADAPTERS = {"cac.loss.": step, "cac.pair.": pair, "cac.parameters.": parameters}
"""By the beginning of a case's name."""
