import torch
from process_group import fork_group

from fpl_fast.trainer.methods.step_random import StepRandom, draw


def test_draws_follow_the_weights():
    weight = torch.tensor([[3.0, 0.0, 1.0, 4.0], [0.0, 1.0, 0.0, 0.0]])
    drawn = draw(weight.expand(8000, 2, 4))
    assert drawn.shape == (8000, 2)
    share = drawn[:, 0].bincount(minlength=4) / 8000
    assert share[1] == 0
    torch.testing.assert_close(share, weight[0] / 8, atol=0.03, rtol=0)  # five standard deviations
    assert (drawn[:, 1] == 1).all()


def numbers(seed, num_images):
    """Draw the numbers of a process's step: common, by image, common again."""
    random, weight = StepRandom(seed, torch.device("cpu")), torch.arange(1.0, 8.0).expand(50, -1)
    rows = random.rows(num_images, 3, 5)
    return draw(weight, random.generator), rows, random.common(4, 2)


def test_the_seed_decides_and_the_default_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first, again, other = (numbers(seed, 6) for seed in (8, 8, 9))
    assert torch.equal(torch.rand(4), expected)
    for ours, same, different in zip(first, again, other, strict=True):
        assert torch.equal(ours, same) and not torch.equal(ours, different)
    assert 0 <= first[1].min() <= first[1].max() < 1


def one_of_three(rank, folder):
    torch.manual_seed(rank)
    torch.save(numbers(8, 2), f"{folder}/{rank}")


def test_processes_share_out_the_numbers_of_one(tmp_path):
    fork_group(one_of_three, 3, tmp_path)
    parts = [torch.load(tmp_path / str(rank)) for rank in range(3)]
    before, rows, after = numbers(8, 6)
    assert torch.equal(torch.cat([part[1] for part in parts]), rows)
    for part in parts:
        assert torch.equal(part[0], before) and torch.equal(part[2], after)
