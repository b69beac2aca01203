"""The moving threshold, regions of similar pixels and their labels."""

import pytest
import torch
from fresh import rng
from torch.nn import functional as F

from fpl_fast.trainer.methods.predictions import Prediction
from fpl_fast.trainer.methods.regions import moved_threshold, relabelled
from fpl_fast.trainer.models.correlation import CorrelationHead, region_masks

C = 4


def drawn(num, height, width, num_regions):
    """Labels in blobs, confident pixels and discs, with an image that has no confident pixel."""
    generator = torch.Generator().manual_seed(int(rng().integers(2**31)))
    label = F.interpolate(torch.rand(num, C, 3, 4, generator=generator), (height, width), mode="bilinear").argmax(1)
    confident = torch.rand(num, height, width, generator=generator) < 0.7
    confident[-1] = False
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    centre = torch.rand(2, num, num_regions, 1, 1, generator=generator) * torch.tensor([height, width]).view(
        2, 1, 1, 1, 1
    )
    radius = 1 + 5 * torch.rand(num, num_regions, 1, 1, generator=generator)
    regions = (rows - centre[0]).square() + (columns - centre[1]).square() < radius.square()
    regions[:, -1] = False  # an empty one
    return label, confident, regions


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.65, 1.0])
def test_regions_are_relabelled_one_after_another(threshold):
    label, confident, regions = drawn(3, 17, 23, 40)
    expected, changed = label.clone(), torch.zeros_like(confident)
    theta = torch.tensor(threshold)
    for n in range(3):
        for region in regions[n]:
            inside = region & confident[n]
            if inside.sum() == 0 or inside.sum() / region.sum() < theta:
                continue
            counts = torch.stack([(expected[n][inside] == c).sum() for c in range(C)])
            if counts.max() / inside.sum() > theta:
                expected[n][region] = counts.argmax()
                changed[n] |= region
    ours, where = relabelled(label, confident, regions, theta, C)
    assert torch.equal(ours, expected)
    assert torch.equal(where, changed)
    assert (where.any() and not torch.equal(ours, label)) == (threshold < 1)
    assert torch.equal(ours[~where], label[~where])
    assert not where[-1].any()


def test_a_later_region_sees_what_an_earlier_one_wrote():
    label = torch.tensor([[[0, 0, 1, 1, 1]]])
    regions = torch.tensor([[[[1, 1, 1, 0, 0]], [[0, 0, 1, 1, 0]]]], dtype=torch.bool)
    sure = torch.ones(1, 1, 5, dtype=torch.bool)
    found, changed = relabelled(label, sure, regions, torch.tensor(0.4), 2)
    assert found.tolist() == [[[0, 0, 0, 0, 1]]]  # the tie of the second region goes to the lower class
    assert changed.tolist() == [[[True, True, True, True, False]]]
    found, _ = relabelled(label, sure, regions.flip(1), torch.tensor(0.4), 2)
    assert found.tolist() == [[[0, 0, 0, 1, 1]]]


def test_no_region_changes_nothing():
    label, confident, regions = drawn(2, 5, 6, 3)
    found, changed = relabelled(label, confident, regions[:, :0], torch.tensor(0.0), C)
    assert torch.equal(found, label)
    assert not changed.any()


def test_the_threshold_follows_the_most_confident_pixel_of_each_predicted_class():
    label = torch.tensor([[[0, 0, 2], [2, 3, 3]]])
    confidence = torch.tensor([[[0.3, 0.5, 0.9], [0.7, 1.0, 0.6]]])
    counted = torch.tensor([[[True, True, False], [True, False, True]]])
    predicted, start = Prediction(confidence, label), torch.tensor(0.8)
    found = moved_threshold(start, predicted, counted, C, 0.9)
    torch.testing.assert_close(found, torch.tensor(0.9 * 0.8 + 0.1 * (0.5 + 0.7 + 0.6) / 3))
    assert moved_threshold(start, predicted, torch.zeros_like(counted), C, 0.9) == start
    assert moved_threshold(start, predicted, counted, C, 1.0) == start


def test_affinity_spreads_logits():
    """Each pixel hands its logits to the pixels that its row points at."""
    head = CorrelationHead(5, 8, C).eval()
    features, logits = torch.randn(2, 5, 3, 4, requires_grad=True), torch.randn(2, C, 6, 8, requires_grad=True)
    found = head(features, logits, (24, 32))
    assert found.affinity.shape == (2, 12, 12)
    torch.testing.assert_close(found.affinity.sum(2), torch.ones(2, 12))
    assert found.logits.shape == (2, C, 3, 4)
    torch.testing.assert_close(found.logits.sum((2, 3)), small_sum(logits), rtol=1e-4, atol=1e-4)
    found.logits.square().sum().backward()
    assert logits.grad is None
    assert features.grad.count_nonzero() > 0
    assert all(p.grad.isfinite().all() for p in head.parameters())


def small_sum(logits):
    full = F.interpolate(logits.detach(), (24, 32), mode="bilinear", align_corners=True)
    return F.interpolate(full, (3, 4), mode="bilinear", align_corners=True).sum((2, 3))


def test_regions_are_more_than_half_as_similar():
    affinity = torch.rand(2, 6, 6)
    rows = torch.tensor([4, 0, 4])
    found = region_masks(affinity, rows, (2, 3), (5, 7))
    assert found.shape == (2, 3, 5, 7)
    assert torch.equal(found[:, 0], found[:, 2])
    for n in range(2):
        for place, row in enumerate(rows):
            similarity = F.interpolate(affinity[n, row].view(1, 1, 2, 3), (5, 7), mode="bilinear", align_corners=True)
            middle = (similarity.max() + similarity.min()) / 2
            clear = (similarity - middle).abs() > 1e-6
            assert torch.equal(found[n, place][clear[0, 0]], (similarity > middle)[0, 0][clear[0, 0]])
    assert not region_masks(torch.zeros(1, 6, 6), rows, (2, 3), (5, 7)).any()  # all alike: no region
