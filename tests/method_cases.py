"""Tiny networks, batches and the literal losses, shared by the tests of the methods."""

import torch
from torch import nn
from torch.nn import functional as F
from trainer_runs import LayeredNetwork, method_config

from fpl_fast.trainer.config import PairedCropsPart
from fpl_fast.trainer.methods import Batch, Place, TrainingSet, View, build_method

C = 6
NUM_UNLABELLED = 9
SIZE = (14, 18)  # a crop that the stride 4 does not divide
CLOSE = {"rtol": 2e-4, "atol": 2e-6}  # float32 through a network and two upsamplings


class TinyNetwork(LayeredNetwork):
    """Stride 4, batch normalisation, a few hundred weights."""

    num_low = 3

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, C, 1),
        )
        nn.init.normal_(self.layers[-1].weight)  # spread logits, so that K varies


class AuxNetwork(TinyNetwork):
    """Network with an auxiliary head and dropout, like AEL's."""

    def __init__(self):
        super().__init__()
        self.aux_head = nn.Conv2d(8, C, 1)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, image):
        return self.layers[-1](self.dropout(self.layers[:-1](image)))

    def forward_with_aux(self, image):
        return self.forward(image), self.aux_head(self.layers[:3](image)[..., ::2, ::2])


def make_method(seed=0, network=TinyNetwork, **changes):
    torch.manual_seed(seed)
    method = build_method(method_config(**changes), network, ignore_index=255)
    method.prepare(TrainingSet(num_classes=C, num_unlabelled=NUM_UNLABELLED, batch_unlabelled=3))
    return method


def make_view(generator, num=3, labelled=False):
    valid = torch.ones(num, *SIZE, dtype=torch.bool)
    valid[:, -2:] = False
    label = torch.randint(0, C, (num, *SIZE), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = 255
    image = torch.randn(num, 3, *SIZE, generator=generator) * valid.unsqueeze(1)
    index = torch.randint(NUM_UNLABELLED, (num,), generator=generator)
    wanted = None if labelled else torch.randint(C, (num,), generator=generator)
    return View(image, valid, label.masked_fill(~valid, 255) if labelled else None, index, wanted)


def make_batch(num_unlabelled_views, seed=0, num=3, paste=False, num_strong=0):
    generator = torch.Generator().manual_seed(seed)
    labelled = make_view(generator, num=2, labelled=True)
    unlabelled = tuple(make_view(generator, num) for _ in range(num_unlabelled_views))
    mask = torch.rand(num, *SIZE, generator=generator) < 0.4
    paste = make_view(generator, num=2, labelled=True) if paste else None
    if num_strong:
        return strengthen(Batch(labelled, unlabelled, seed=seed), num_strong, generator)
    return Batch(labelled, unlabelled, mask if num_unlabelled_views == 2 else None, paste)


def strengthen(batch, num_strong, generator):
    """Give a batch ``num_strong`` strong views and the boxes of each."""
    if not num_strong:
        return batch
    views = tuple(
        view._replace(strong=tuple(torch.randn(view.image.shape, generator=generator) for _ in range(num_strong)))
        for view in batch.unlabelled
    )
    shape = batch.unlabelled[0].valid.shape
    masks = tuple(torch.rand(shape, generator=generator) < 0.4 for _ in range(num_strong))
    return batch._replace(unlabelled=views, strong_masks=masks)


def placed(view, generator):
    """Give a view of unlabelled images places at multiples of 8 pixels, and flips."""
    num = len(view.image)
    offset, flipped = torch.randint(3, (num, 2), generator=generator), torch.rand(num, generator=generator) < 0.5
    return view._replace(place=Place(8 * offset, flipped))


def complete(method, batch, generator):
    """Give a batch the strong views or the places that a method reads."""
    if isinstance(method.config, PairedCropsPart):
        return batch._replace(unlabelled=tuple(placed(view, generator) for view in batch.unlabelled), mix_mask=None)
    return strengthen(batch, getattr(method.config, "num_strong_views", 0), generator)


def make_batch_for(method, **options):
    """A batch with all that a method reads."""
    num_strong = getattr(method.config, "num_strong_views", 0)
    return make_batch(method.num_unlabelled_views, num_strong=num_strong, **options)


def assert_same_step(method, losses, theirs, expected):
    """Compare terms, all above 0, and the gradients of what is trained with those of a literal version of a copy."""
    assert losses.terms.keys() == expected.keys()
    for key, term in losses.terms.items():
        assert term > 0
        torch.testing.assert_close(term, expected[key], msg=lambda text, key=key: f"{key}: {text}", **CLOSE)
    sum(losses.terms.values()).backward()
    sum(expected.values()).backward()
    for ours, other in zip(method.parameters(), theirs.parameters(), strict=True):
        assert (ours.grad is None) == (other.grad is None) == (not ours.requires_grad)
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, other.grad, **CLOSE)


def upsample(logits):
    return F.interpolate(logits, SIZE, mode="bilinear", align_corners=True)


def literal_fpl(student, teacher, threshold, weighting):
    """spec/fpl.md sections 2-4 for the public code's cap of 3, on (P, C) logits, one pixel at a time."""
    losses, weights = [], []
    for z, t in zip(student, teacher, strict=True):
        p, order = t.softmax(0).sort(descending=True)
        c = p.cumsum(0)
        k = 1 if c[1] >= threshold else 2 if c[2] >= threshold else 3
        positive = torch.zeros(C, dtype=torch.bool)
        positive[order[:k]] = True
        losses.append(F.softplus((-z[positive]).logsumexp(0) + z[~positive].logsumexp(0)))
        m, r = c[k] / (k + 1), p[k]
        weights.append((torch.log1p(50 * (m - r)) / torch.log1p(50 * m)) if weighting == "concave" else torch.ones(()))
    return torch.stack(losses), torch.stack(weights)
