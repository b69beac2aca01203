"""Adapters of UniMatch (V1) and its evaluation: what our parts give for the inputs of each golden case."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from trainer_runs import method_config

from fpl_fast.trainer.config import OptimConfig
from fpl_fast.trainer.data.cutmix import fitting_boxes
from fpl_fast.trainer.data.long_side import LongSideAugmentation, scaled_size
from fpl_fast.trainer.data.sample import Sample
from fpl_fast.trainer.data.transforms import normalize
from fpl_fast.trainer.evaluation.evaluate import evaluate
from fpl_fast.trainer.evaluation.protocol import Protocol, named_protocol
from fpl_fast.trainer.methods import Batch, View, build_method
from fpl_fast.trainer.methods.predictions import predict
from fpl_fast.trainer.methods.weak_strong import mixed_strong_views
from fpl_fast.trainer.models.features import Features
from fpl_fast.trainer.models.network import build_network
from fpl_fast.trainer.models.perturbation import perturbed
from fpl_fast.trainer.optim import poly_lr


class Recorded(nn.Module):
    """A network that gives the logits of a case, pass by pass, whatever it sees."""

    feature_channels = (2, 3)

    def __init__(self, inputs):
        super().__init__()
        names = ("x", "weak", "fp", "strong1", "strong2", "weak_partner")
        self.logits = nn.ParameterDict({name: inputs[f"logits_{name}"].clone() for name in names})

    def forward(self, image, *, factors=None):
        if not self.training:
            return self.logits["weak_partner"]
        if factors is None:
            return torch.cat([self.logits["strong1"], self.logits["strong2"]])
        assert {len(factor) for factor in factors} == {len(image)}
        x, weak, perturbed = (self.logits[name] for name in ("x", "weak", "fp"))
        return torch.cat([x, weak, torch.full_like(x, torch.nan), perturbed])


def step(case):
    """The whole method; images that no output depends on are noise."""
    inputs, params = {name: torch.from_numpy(array) for name, array in case.inputs.items()}, case.params
    config = method_config(name="unimatch", loss="ce", confidence_threshold=params["conf_thresh"], engine="eager")
    method = build_method(config, lambda: Recorded(inputs)).train()
    weak, noise = torch.randn_like(inputs["images_strong1"]), torch.randn_like(inputs["images_strong1"])
    u = View(weak, inputs["ignore"] != 255, strong=(inputs["images_strong1"], noise))
    partner = View(weak, inputs["ignore_partner"] != 255, strong=(inputs["images_strong1_partner"], noise))
    boxes = (inputs["box1"], inputs["box2"])
    batch = Batch(View(weak, torch.ones_like(u.valid), inputs["label"]), (u, partner), strong_masks=boxes)

    terms = method(batch, 0.0).terms
    loss = sum(terms.values())
    loss.backward()
    logits = method.networks[0].logits
    assert logits["weak_partner"].grad is None
    gradients = {
        f"grad_{name}": z.grad if z.grad is not None else torch.zeros_like(z)
        for name, z in logits.items()
        if name != "weak_partner"
    }
    weights = dict(zip(("loss_x", "loss_s1", "loss_s2", "loss_fp"), params["weights"], strict=True))
    names = ("loss_sup", "loss_unsup", "loss_unsup_2", "loss_features")
    values = {name: terms[ours] / weights[name] for name, ours in zip(weights, names, strict=True)}
    label, pasted = (predict(logits[name], tuple(params["size"])).label for name in ("weak", "weak_partner"))
    labels = {f"label_mixed{i}": torch.where(box, pasted, label) for i, box in enumerate(boxes, start=1)}
    return {
        "loss": loss,
        "mixed_image1": mixed_strong_views(u, partner, boxes)[0].image,
        **values,
        **labels,
        **gradients,
    }


def box_statistics(case):
    params, rng, found, share = case.params, np.random.default_rng(0), [], []
    for _ in range(60):
        masks = fitting_boxes(
            100,
            (params["size"],) * 2,
            rng,
            probability=params["p"],
            area_range=params["area"],
            aspect_range=params["ratio"],
        ).numpy()
        for mask in masks:
            share.append(mask.any())
            if share[-1]:
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                found.append((len(rows), len(columns), rows[0], columns[0]))
                assert mask.sum() == len(rows) * len(columns)
    height, width, top, left = np.array(found).T
    area = height * width / params["size"] ** 2
    return {
        "area_mean": area.mean(),
        "area_std": area.std(),
        "height_mean": height.mean(),
        "width_mean": width.mean(),
        "ratio_median": np.median(height / width),
        "top_mean": top.mean(),
        "left_mean": left.mean(),
        "share_with_box": np.mean(share),
    }


def augment(case):
    params = case.params
    sample = Sample(torch.from_numpy(case.inputs["image"]).permute(2, 0, 1), torch.from_numpy(case.inputs["label"]))
    augmentation = LongSideAugmentation((params["crop"],) * 2, pad_label=params["ignore"])
    size = scaled_size(sample.label.shape, params["long_side"])
    view = augmentation.cut(sample, size, (params["y"], params["x"]), flip=params["flip"])
    return {"image": normalize(view.image), "label": view.label}


def feature_dropout(case):
    low, high, kept_low, kept_high = (torch.from_numpy(case.inputs[name]) for name in ("c1", "c4", "kept1", "kept4"))
    factors = tuple(kept[..., None, None] / (1 - case.params["rate"]) for kept in (kept_low, kept_high))
    both = perturbed(Features(low, low, high), factors, beside_clean=True)
    return {"c1": both.low, "c4": both.high}


def parameters(case):
    network = build_network("resnet50", 21, head="unimatch")
    convolutions = [block.conv2 for block in network.backbone.encoder.layer4]
    dilations = [f"{layer.dilation}{layer.stride}" for layer in convolutions]
    assert dilations == case.params["layer4_dilation_stride"]
    parts = {
        "backbone": network.backbone,
        "head": network.head.aspp,
        "reduce": network.head.low,
        "fuse": network.head.refine,
        "classifier": network.classifier,
    }
    return {name: np.array(sum(p.numel() for p in part.parameters())) for name, part in parts.items()}


def learning_rate(case):
    """Ours is set before the step: the rate of step i there is ours of step i - 1."""
    config = OptimConfig(lr=case.params["lr"], power=case.params["power"])
    return {"lr": np.array([poly_lr(config, max(i - 1, 0), case.params["total"]) for i in case.inputs["iteration"]])}


def evaluation(case, windows=None):
    """Our mIoU leaves out classes that neither occur nor are predicted, which count 0 there.

    With ``windows``, the protocol of a case with a sliding window.
    """
    w1, w2, image, label = (torch.from_numpy(case.inputs[name]) for name in ("w1", "w2", "image", "label"))
    num_classes, seen, predictions = case.params["num_classes"], [], []

    class Network(nn.Module):
        size_multiple = case.params["multiplier"] or 1

        def forward(self, crop):
            seen.append(list(crop.shape[-2:]))
            return F.conv2d(F.conv2d(crop, w1, stride=4, padding=3).relu(), w2, dilation=4, padding=8)

    class Normalised:
        """The one image, which is normalised already."""

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return Sample(image[0], label[0])

    sliding = case.params["mode"] == "sliding_window"
    result = evaluate(
        Network(),
        Normalised(),
        num_classes=num_classes,
        protocol=windows or named_protocol("unimatch", (case.params["crop"],) * 2) if sliding else Protocol(),
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
        on_prediction=lambda _, prediction: predictions.append(prediction),
    )
    assert seen == case.params["windows"]
    iou = 100 * np.nan_to_num(np.array(result.per_class_iou))
    return {"prediction": torch.stack(predictions), "iou": iou, "miou": iou.mean()}


ADAPTERS = {
    "unimatch.unimatch.": step,
    "unimatch.box.": box_statistics,
    "unimatch.augment.": augment,
    "unimatch.feature_dropout": feature_dropout,
    "unimatch.parameters.": parameters,
    "unimatch.lr": learning_rate,
    "evaluation_unimatch.": evaluation,
}
