"""Adapters of U2PL: what our parts give for the inputs of each golden case."""

from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F
from trainer_runs import method_config

from fpl_fast.trainer.methods.batch import View, mix_views
from fpl_fast.trainer.methods.consistency import Target
from fpl_fast.trainer.methods.contrast import Pixels, contrastive_loss, push_keys
from fpl_fast.trainer.methods.key_bank import KeyBank
from fpl_fast.trainer.methods.u2pl import U2pl, class_masks, nearest
from fpl_fast.trainer.methods.unreliable import entropy_map, percent_unreliable, percentiles
from fpl_fast.trainer.models.ael import RepresentationHead
from fpl_fast.trainer.models.network import build_network


def tensors(case):
    return {name: torch.from_numpy(value) for name, value in case.inputs.items()}


def schedule(case):
    shares = case.inputs["epoch"] / case.params["epochs"]
    alpha = np.array([percent_unreliable(share, case.params["low_entropy_threshold"]) for share in shares])
    return {"alpha": alpha, "drop_percent": 100 - alpha}


def contrast(case):
    """With the two mistakes of the public code, which the case was made with."""
    given, params = tensors(case), case.params
    _, channels, *size = given["representation"].shape
    num_classes = given["probability"].shape[1]
    rows = {name: given[name].movedim(1, -1).flatten(0, 2) for name in
            ("representation", "teacher_representation", "probability", "low_mask", "high_mask")}  # fmt: skip
    label = torch.cat([given["label_labelled"], given["label_unlabelled"]]).movedim(1, 0).flatten(1)
    num_labelled = params["labelled"] * size[0] * size[1]
    low, high = (rows[name][:, 0] > 0 for name in ("low_mask", "high_mask"))
    pixels = Pixels(label, rows["probability"], rows["teacher_representation"], low, high, num_labelled)

    bank = KeyBank([params["queue_size_class0"]] + [params["queue_size"]] * (num_classes - 1), channels)
    held = given["bank_before_sizes"].tolist()
    keys = torch.zeros(num_classes, max(1, *held), channels)
    for c, part in enumerate(given["bank_before"].split(held)):
        keys[c, : held[c]] = part
    bank.push(keys, given["bank_before_sizes"])
    new_keys = push_keys(bank, pixels, torch.zeros(num_classes, params["queue_size"]), published=True)

    # The draws are in the order of the classes that contribute.
    present = pixels.members.any(1)
    sure = (pixels.members & pixels.probability.T.gt(params["threshold"])).sum(1)
    queue = present.nonzero().flatten()
    contributing = [c for c in range(len(queue)) if sure[c] > 0 and bank.length[queue[c]] > 0]
    anchor_lot, key_lot = torch.zeros(num_classes, 256), torch.zeros(num_classes, 256, 50)
    for row, c in enumerate(contributing):
        anchor_lot[c] = (given["anchor_draws"][row] + 0.5) / sure[c]
        key_lot[c] = (given["negative_draws"][row].view(256, 50) + 0.5) / bank.length[queue[c]]
    feature = given["representation"].requires_grad_()
    loss = contrastive_loss(feature.movedim(1, -1).flatten(0, 2), pixels, bank, anchor_lot, key_lot,
                            threshold=params["threshold"], published=True)  # fmt: skip
    (gradient,) = torch.autograd.grad(loss, feature)
    held = bank.length.tolist()
    after = [bank.take(torch.tensor([c]), torch.arange(n).unsqueeze(0))[0] for c, n in enumerate(held)]
    return {"loss": loss, "grad": gradient, "new_keys": new_keys, "bank_after": torch.cat(after),
            "bank_after_sizes": bank.length}  # fmt: skip


def queue(case):
    given, size = tensors(case), case.params["queue_size"]
    bank, sizes = KeyBank([size], 4), []
    for part in given["keys"].split(given["counts"].tolist()):
        keys = torch.zeros(1, size, 4)
        keys[0, : len(part)] = part
        bank.push(keys, torch.tensor([len(part)]))
        sizes.append(bank.length.item())
    return {"queue": bank.take(torch.tensor([0]), torch.arange(sizes[-1]).unsqueeze(0))[0], "sizes": np.array(sizes)}


def unsupervised(case):
    """The method's own loss, with logits of the labels as its target."""
    given, percent = tensors(case), case.params["percent"]
    label, student = given["label"], given["student_logits"].requires_grad_()
    counted, size = label != 255, tuple(label.shape[1:])
    entropy = entropy_map(given["teacher_logits"], size)
    kept = counted & (entropy < percentiles(entropy, [percent], counted)[0])
    one_hot = F.one_hot(label.masked_fill(~counted, 0), student.shape[1]).movedim(-1, 1).float()
    method = SimpleNamespace(config=method_config(name="u2pl", loss="ce", engine="eager"))
    loss, _ = U2pl._unsupervised(method, student, Target(one_hot), kept, torch.ones_like(kept))
    (gradient,) = torch.autograd.grad(loss, student)
    return {"loss": loss, "grad": gradient, "kept": kept}


def masks(case):
    given, params = tensors(case), case.params
    labelled, label = given["label_labelled"], given["label_unlabelled"]
    counted = label != 255
    entropy = entropy_map(given["teacher_logits_unlabelled"], tuple(label.shape[1:]))
    percent = percent_unreliable(params["epoch"] / params["epochs"], 20)
    low, high = percentiles(entropy, (percent, 100 - percent), counted)
    first = labelled != 255
    values = (torch.cat([labelled, label]), torch.cat([first, counted & (entropy <= low)]),
              torch.cat([first, counted & (entropy >= high)]))  # fmt: skip
    small, reliable, unreliable = (nearest(value, tuple(params["size"])) for value in values)
    one_hot = [class_masks(part, params["num_classes"], published=True) for part in small.split(len(labelled))]
    return {
        "low_threshold": low, "high_threshold": high, "label_labelled": one_hot[0], "label_unlabelled": one_hot[1],
        "low_mask": reliable.unsqueeze(1).float(), "high_mask": unreliable.unsqueeze(1).float(),
    }  # fmt: skip


def cutmix(case):
    """Our masks are True where the partner is pasted, here the next image of the batch."""
    given = tensors(case)
    label, confidence, pasted = given["label"], given["confidence"], given["mask"] == 0
    view = View(given["image"], torch.ones_like(pasted))
    mixed = mix_views(view, View(*(x.roll(-1, 0) for x in view[:2])), pasted)
    return {"image": mixed.image} | {
        name: torch.where(pasted, x.roll(-1, 0), x) for name, x in (("label", label), ("confidence", confidence))
    }


def parameters(case):
    with torch.device("meta"):
        network = build_network("resnet101", 21, head="ael", output_stride=8)
        representation = RepresentationHead(network.fused_channels, 256)

    def count(*modules):
        return np.array(sum(p.numel() for module in modules for p in module.parameters()))

    head = network.head
    return {
        "encoder": count(network.backbone),
        "decoder": count(head, network.classifier, representation),
        "decoder.low_conv": count(head.low),
        "decoder.aspp": count(head.aspp),
        "decoder.head": count(head.high),
        "decoder.classifier": count(head.refine, network.classifier),
        "decoder.representation": count(representation),
    }


ADAPTERS = {
    "u2pl.unsup.": unsupervised,
    "u2pl.schedule": schedule,
    "u2pl.masks.": masks,
    "u2pl.contrast.": contrast,
    "u2pl.queue": queue,
    "u2pl.cutmix": cutmix,
    "u2pl.parameters.": parameters,
}
"""By the beginning of a case's name."""
