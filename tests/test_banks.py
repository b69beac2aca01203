import pytest
import torch
from process_group import fork_group

from fpl_fast.trainer.data.donors import DonorQueue
from fpl_fast.trainer.methods.banks import ConfidenceBank, CutMixBank


def test_confidence_bank_equals_the_literal_version():
    bank = ConfidenceBank(3, 0.9)
    assert 0 <= bank.confidence.min() <= bank.confidence.max() < 1
    b = bank.confidence.tolist()
    for num_parts in (1, 3, 2):
        parts = [(torch.rand(3) * 5, torch.tensor([7.0, 0.0, 5.0 + part])) for part in range(num_parts)]
        for total, count in parts:
            total[1] = 0
            bank.observe(total, count)
        bank.step()
        for c in range(3):
            pixels = sum(count[c].item() for _, count in parts)
            v = sum(total[c].item() for total, _ in parts) / pixels if pixels else 0.0  # absent: pulls towards 0
            b[c] = 0.9 * b[c] + 0.1 * v
    assert bank.confidence.tolist() == pytest.approx(b)
    assert bank.deficit.tolist() == pytest.approx([1 - c for c in b])


def test_cutmix_bank_equals_the_literal_version():
    bank = CutMixBank(4, 5)
    expected = torch.zeros(4, 5, dtype=torch.bool)
    for _ in range(6):
        index, label = torch.randint(5, (3,)), torch.randint(4, (3, 4, 5))
        label[0, :3] = 2
        for image, classes in zip(index.tolist(), label, strict=True):  # repeated images: the last one counts
            for c in range(4):
                expected[c, image] = (classes == c).sum() / 20 >= 0.25
        bank.update(index, label, 0.25)
        assert torch.equal(bank.holds, expected)


def test_donors_hold_the_class_where_any_image_does():
    bank = CutMixBank(3, 6)
    bank.holds[0, [1, 4]] = True
    bank.holds[1, 5] = True
    drawn = bank.draw_images(torch.tensor([0, 1, 2]).expand(3000, 3))
    assert set(drawn[:, 0].tolist()) == {1, 4}
    assert set(drawn[:, 1].tolist()) == {5}
    assert set(drawn[:, 2].tolist()) == set(range(6))
    assert drawn[:, 0].eq(1).float().mean() == pytest.approx(0.5, abs=0.05)  # five standard deviations


def one_of_two(rank, folder):
    """Both processes end with the banks of the whole batch, and share out its donors."""
    generator = torch.Generator().manual_seed(5)
    total, index = torch.rand(2, 3, generator=generator), torch.tensor([[4, 1], [0, 1]])
    label = torch.randint(3, (2, 2, 4, 5), generator=generator)
    bank, cutmix_bank = ConfidenceBank(3, 0.5), CutMixBank(3, 6)
    bank.confidence.zero_()
    bank.observe(total[rank], torch.full((3,), 2.0 + rank))
    bank.step()
    cutmix_bank.update(index[rank], label[rank], 0.3)
    queue = DonorQueue(torch.arange(8).view(1, 4, 2))
    steps = queue.steps(rank, 2)
    donors = [next(steps)]
    queue.push(torch.arange(8).view(4, 2) + 10 + 100 * rank)
    donors.append(next(steps))
    torch.save((bank.confidence, cutmix_bank.holds, queue.donors, donors), f"{folder}/{rank}")


def test_processes_share_the_banks(tmp_path):
    fork_group(one_of_two, 2, tmp_path)
    (b0, holds0, queue0, steps0), (b1, holds1, queue1, steps1) = (
        torch.load(tmp_path / str(rank), weights_only=False) for rank in range(2)
    )
    generator = torch.Generator().manual_seed(5)
    total = torch.rand(2, 3, generator=generator)
    label = torch.randint(3, (2, 2, 4, 5), generator=generator)
    torch.testing.assert_close(b0, 0.5 * total.sum(0) / 5)
    assert torch.equal(b0, b1)
    alone = CutMixBank(3, 6)
    alone.update(torch.tensor([4, 1, 0, 1]), label.flatten(0, 1), 0.3)
    assert torch.equal(holds0, alone.holds)
    assert torch.equal(holds1, alone.holds)
    assert steps0 == [[(0, 1), (2, 3)], [(10, 11), (12, 13)]]  # those pushed are the first process's
    assert steps1 == [[(4, 5), (6, 7)], [(14, 15), (16, 17)]]
    assert torch.equal(queue0, queue1)
