import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fpl_fast.trainer.data.sample import Sample
from fpl_fast.trainer.evaluation.evaluate import EvaluationResult, evaluate
from fpl_fast.trainer.evaluation.protocol import Protocol

NUM_CLASSES = 4
IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # normalised = stored


class Listed:
    """A data set of given samples."""

    num_classes, ignore_index, class_names, palette = NUM_CLASSES, 255, tuple("abcd"), ((0, 0, 0),) * NUM_CLASSES

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


class ReadsClass(nn.Module):
    """Predicts the class that the red channel holds; keeps a batch norm, to be seen in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image):
        assert not self.training
        assert not torch.is_grad_enabled()
        return F.one_hot(image[:, 0].round().long(), NUM_CLASSES).movedim(-1, 1).float() + 0 * self.norm(image)[:, :1]


def random_samples(sizes, ignored=0.2):
    """Samples whose images hold predictions, and labels that agree or not."""
    samples = []
    for height, width in sizes:
        prediction = torch.randint(0, NUM_CLASSES, (height, width), dtype=torch.uint8)
        label = torch.where(
            torch.rand(height, width) < 0.5, prediction, torch.randint(0, NUM_CLASSES, (height, width))
        ).to(torch.uint8)
        label[torch.rand(height, width) < ignored] = 255
        samples.append(Sample(prediction.expand(3, -1, -1), label))
    return samples


def counted(samples):
    """The confusion matrix, pixel by pixel."""
    confusion = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64)
    for sample in samples:
        for truth, prediction in zip(sample.label.flatten().tolist(), sample.image[0].flatten().tolist(), strict=True):
            if truth != 255:
                confusion[truth, prediction] += 1
    return confusion


@pytest.mark.parametrize("num_workers", [0, 1])
def test_counts_over_images_of_different_sizes(num_workers):
    samples = random_samples([(7, 5), (1, 9), (12, 12)])
    network = ReadsClass().train()
    seen = []
    result = evaluate(
        network,
        Listed(samples),
        num_classes=NUM_CLASSES,
        num_workers=num_workers,
        progress=lambda *done: seen.append(done),
        **IDENTITY,
    )
    expected = counted(samples)
    assert result.confusion.dtype == torch.int64
    assert torch.equal(result.confusion, expected)
    iou = [(expected[c, c] / (expected[c].sum() + expected[:, c].sum() - expected[c, c])).item() for c in range(4)]
    assert result.per_class_iou == pytest.approx(iou)
    assert result.miou == pytest.approx(sum(iou) / 4)
    assert result.pixel_accuracy == pytest.approx((expected.trace() / expected.sum()).item())
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert network.training
    assert network.norm.num_batches_tracked == 0


def test_shares_add_up():
    dataset = Listed(random_samples([(6, 7)] * 5))
    whole = evaluate(ReadsClass(), dataset, num_classes=NUM_CLASSES, **IDENTITY)
    parts = [
        evaluate(ReadsClass(), dataset, num_classes=NUM_CLASSES, indices=range(rank, 5, 2), **IDENTITY)
        for rank in range(2)
    ]
    assert torch.equal(parts[0].confusion + parts[1].confusion, whole.confusion)
    digests = parts[0].label_digests + parts[1].label_digests
    result = EvaluationResult.from_confusion(parts[0].confusion + parts[1].confusion, digests)
    assert (result.miou, result.labels_sha256) == (whole.miou, whole.labels_sha256)


def test_labels_have_a_digest():
    samples = random_samples([(6, 7)] * 3)
    turned = [*samples[:2], Sample(samples[2].image.mT, samples[2].label.mT)]
    results = [
        evaluate(ReadsClass(), Listed(some), num_classes=NUM_CLASSES, **IDENTITY)
        for some in (samples, samples[::-1], turned, [Sample(s.image.clone(), s.label.clone()) for s in samples])
    ]
    assert len({tuple(result.confusion.flatten().tolist()) for result in results}) == 1
    assert results[0].labels_sha256 == results[3].labels_sha256
    assert len({result.labels_sha256 for result in results}) == 3


def test_absent_classes_do_not_count():
    result = EvaluationResult.from_confusion(torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert math.isnan(result.per_class_iou[2])
    assert result.miou == pytest.approx((3 / 6 + 4 / 7) / 2)
    # predicted but never true: counts, with 0
    assert EvaluationResult.from_confusion(torch.tensor([[3, 1], [0, 0]])).miou == pytest.approx(3 / 8)


def test_nothing_but_ignored_pixels_is_nan():
    result = evaluate(ReadsClass(), Listed(random_samples([(4, 4)], ignored=2.0)), num_classes=NUM_CLASSES, **IDENTITY)
    assert math.isnan(result.miou)
    assert math.isnan(result.pixel_accuracy)


def test_only_the_centre_counts_and_padding_is_class_0():
    """The crop of AEL while it trains, on an image that is longer one way and shorter the other."""
    (sample,) = random_samples([(9, 4)])
    result = evaluate(
        ReadsClass(), Listed([sample]), num_classes=NUM_CLASSES, protocol=Protocol(centre=(5, 6)), **IDENTITY
    )
    inside = counted([Sample(sample.image[:, 2:7], sample.label[2:7])])
    inside[0, 0] += 5 * 2  # one column on either side, black and therefore predicted as it is labelled
    assert torch.equal(result.confusion, inside)


def test_predictions_are_handed_out():
    samples = random_samples([(3, 4), (5, 2), (1, 1)])
    kept = {}
    evaluate(
        ReadsClass(),
        Listed(samples),
        num_classes=NUM_CLASSES,
        indices=[2, 0],
        on_prediction=kept.__setitem__,
        **IDENTITY,
    )
    assert list(kept) == [2, 0]
    for index, prediction in kept.items():
        assert torch.equal(prediction, samples[index].image[0].long())


def test_autocast_surrounds_the_network():
    dtypes = []

    class Watched(nn.Conv2d):
        def forward(self, image):
            logits = super().forward(image)
            dtypes.append(logits.dtype)
            return logits

    evaluate(
        Watched(3, NUM_CLASSES, 1),
        Listed(random_samples([(8, 8)])),
        num_classes=NUM_CLASSES,
        autocast=lambda: torch.autocast("cpu", torch.bfloat16),
    )
    assert dtypes == [torch.bfloat16]


def test_a_network_of_nan_has_no_score():
    samples = random_samples([(5, 6), (4, 4)])
    network = nn.Conv2d(3, NUM_CLASSES, 1)
    evaluate(network, Listed(samples), num_classes=NUM_CLASSES)
    with torch.no_grad():
        network.bias[torch.randint(NUM_CLASSES, ())] = torch.nan
    for protocol in (None, Protocol(window=(4, 4), combine="probabilities")):
        with pytest.raises(FloatingPointError, match="the network must predict numbers to be evaluated, got NaN"):
            evaluate(network, Listed(samples), num_classes=NUM_CLASSES, protocol=protocol)
    assert not network._forward_hooks


class Broken(Listed):
    """Cannot read its second image."""

    def __getitem__(self, index):
        if index == 1:
            raise ValueError("b.png: the image must be readable, got nonsense")
        return super().__getitem__(index)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_image_is_one_line(num_workers):
    dataset = Broken(random_samples([(3, 4), (3, 4)]))
    with pytest.raises(ValueError, match=r"^b\.png: the image must be readable, got nonsense$"):
        evaluate(ReadsClass(), dataset, num_classes=NUM_CLASSES, num_workers=num_workers, **IDENTITY)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="dataset must hold at least one image to evaluate on, got 0"):
        evaluate(ReadsClass(), Listed([]), num_classes=NUM_CLASSES)
    sample = random_samples([(4, 4)])[0]
    network = ReadsClass()
    with pytest.raises(ValueError, match="dataset must be labelled, got no label for image 1"):
        evaluate(network, Listed([sample, Sample(sample.image, None)]), num_classes=NUM_CLASSES, **IDENTITY)
    assert network.training  # given back as it came
    with pytest.raises(ValueError, match="network must return num_classes = 7 channels, got 4"):
        evaluate(network, Listed([sample]), num_classes=7, **IDENTITY)
