import pytest
import torch

from fpl_fast.trainer.methods.contrast import Pixels, contrastive_loss, push_keys
from fpl_fast.trainer.methods.key_bank import KeyBank

C, D, M, LABELLED = 7, 6, 60, 25


def make(absent=(3,)):
    """Pixels of a step: class 3 occurs nowhere, and one labelled pixel of ten has no label."""
    label = torch.randint(C, (M,))
    label[torch.isin(label, torch.tensor(absent, dtype=torch.int64))] = 255
    label[:LABELLED][torch.rand(LABELLED) < 0.1] = 255
    p = (2 * torch.randn(M, C)).softmax(1)
    reliable, unreliable = (torch.rand(M) < share for share in (0.7, 0.5))
    reliable[:LABELLED] = unreliable[:LABELLED] = label[:LABELLED] != 255
    members = label == torch.arange(C).unsqueeze(1)
    return label, Pixels(members, p, torch.randn(M, D), reliable, unreliable, LABELLED)


def literal_keys(label, pixels, c, published):
    for m in range(M):
        rank = pixels.probability[m].argsort(descending=True).tolist().index(c)
        confused = rank < 3 and label[m] != c if m < LABELLED else 3 <= rank < 20
        if confused and pixels.unreliable[m] and (not published or label[m] == c):
            yield pixels.feature[m]


@pytest.mark.parametrize("published", [False, True])
def test_keys_are_what_is_unlike_a_class(published):
    label, pixels = make()
    bank = KeyBank([80] * C, D)
    total = push_keys(bank, pixels, torch.rand(C, 60), published=published)
    for c in range(C):
        expected = list(literal_keys(label, pixels, c, published))
        assert total[c] == bank.length[c] == len(expected)
        taken = bank.take(torch.tensor([c]), torch.arange(len(expected)).unsqueeze(0))[0]
        assert torch.equal(taken, torch.stack(expected) if expected else taken)
    assert total.sum() > 0


def test_of_many_keys_one_of_each_part_is_taken():
    label, pixels = make()
    bank = KeyBank([80] * C, D)
    lot = torch.rand(C, 4)
    total = push_keys(bank, pixels, lot)
    assert (total > 4).any()
    for c in range(C):
        expected = list(literal_keys(label, pixels, c, False))
        if len(expected) > 4:
            expected = [expected[int((k + lot[c, k].item()) * len(expected) / 4)] for k in range(4)]
        taken = bank.take(torch.tensor([c]), torch.arange(len(expected)).unsqueeze(0))[0]
        assert torch.equal(taken, torch.stack(expected))


def literal(feature, label, pixels, queues, anchor_lot, key_lot, threshold):
    """spec/methods.md section 3.6, class by class and anchor by anchor."""
    present = [c for c in range(C) if (pixels.reliable & (label == c)).any()]
    total = torch.zeros(())
    for c in present if len(present) > 1 else []:
        mine = pixels.reliable & (label == c)
        positive = pixels.feature[mine].mean(0)
        anchors = (mine & (pixels.probability[:, c] > threshold)).nonzero().flatten()
        if len(anchors) == 0 or len(queues[c]) == 0:
            continue
        for lot, keys in zip(anchor_lot[c].tolist(), key_lot[c].tolist(), strict=True):
            anchor = feature[anchors[int(lot * len(anchors))]]
            others = torch.stack([positive, *(queues[c][int(key * len(queues[c]))] for key in keys)])
            cosines = torch.cosine_similarity(anchor.unsqueeze(0), others)
            total = total - (cosines / 0.5).log_softmax(0)[0] / len(anchor_lot[c])
    return total / max(1, len(present))


@pytest.mark.parametrize("absent", [(3,), (1, 2, 3, 4, 5, 6), tuple(range(7))])
def test_the_loss_equals_the_literal_version(absent):
    label, pixels = make(absent)
    counts = torch.tensor([5, 0, 8, 8, 3, 8, 1])  # class 1 has no keys
    keys, bank = torch.randn(C, 8, D), KeyBank([8] * C, D)
    bank.push(keys, counts)
    queues = [keys[c, :n] for c, n in enumerate(counts.tolist())]
    feature = torch.randn(M, D, requires_grad=True)
    anchor_lot, key_lot = torch.rand(C, 9), torch.rand(C, 9, 4)
    ours = contrastive_loss(feature, pixels, bank, anchor_lot, key_lot, threshold=0.2)
    expected = literal(feature, label, pixels, queues, anchor_lot, key_lot, 0.2)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    if len(absent) == 1:
        gradients = [torch.autograd.grad(loss, feature)[0] for loss in (ours, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
        assert ours > 0
    else:  # fewer than two classes
        assert ours == 0
