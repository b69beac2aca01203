import torch
from method_cases import CLOSE
from torch.nn import functional as F

from fpl_fast.trainer.methods.consistency import Target
from fpl_fast.trainer.methods.predictions import class_confidence, predict, predict_target

SIZE = (13, 22)


def upsampled(logits):
    return F.interpolate(logits, SIZE, mode="bilinear", align_corners=True).softmax(1)


def test_prediction():
    logits = 3 * torch.randn(3, 5, 4, 6)
    confidence, label = upsampled(logits).max(1)
    ours = predict(logits, SIZE)
    torch.testing.assert_close(ours.confidence, confidence, **CLOSE)
    assert torch.equal(ours.label, label)


def test_confidence_is_mixed_as_its_target():
    teacher, partner = 3 * torch.randn(2, 3, 5, 4, 6)
    mask = torch.rand(3, *SIZE) < 0.4
    torch.testing.assert_close(predict_target(Target(teacher), SIZE).confidence, upsampled(teacher).amax(1), **CLOSE)
    mixed = torch.where(mask.unsqueeze(1), upsampled(partner), upsampled(teacher)).amax(1)
    torch.testing.assert_close(predict_target(Target(teacher, partner, mask), SIZE).confidence, mixed, **CLOSE)


def test_class_confidence_equals_the_literal_version():
    """Also under autocast, whose products would round the sums; the last class is absent."""
    logits, label = 3 * torch.randn(3, 5, 4, 6), torch.randint(0, 4, (3, *SIZE))
    label[torch.rand(label.shape) < 0.2] = 255
    probability = upsampled(logits)
    with torch.autocast("cpu", torch.bfloat16):
        total, count = class_confidence(logits, label)
    for c in range(5):
        members = label == c
        assert count[c] == members.sum()
        torch.testing.assert_close(total[c], probability[:, c][members].sum(), **CLOSE)
    assert count[4] == total[4] == 0
