import pytest
import torch

from fpl_fast.trainer.data.donors import DonorQueue


def make_queue():
    return DonorQueue(torch.arange(6).view(3, 1, 2))


def test_donors_are_read_lead_steps_after_they_are_chosen():
    queue = make_queue()
    steps = queue.steps()
    assert [next(steps), next(steps)] == [[(0, 1)], [(2, 3)]]  # a loader reads ahead
    queue.push(torch.tensor([[20, 21]]))
    queue.push(torch.tensor([[22, 23]]))
    assert [next(steps) for _ in range(3)] == [[(4, 5)], [(20, 21)], [(22, 23)]]
    assert queue.donors.tolist() == [[[4, 5]], [[20, 21]], [[22, 23]]]
    with pytest.raises(AssertionError, match="reads further ahead"):
        next(steps)


def test_a_resumed_queue_goes_on():
    queue = make_queue()
    queue.push(torch.tensor([[20, 21]]))
    resumed = make_queue()
    resumed.load_state_dict(queue.state_dict())
    steps = resumed.steps()
    donor = next(steps)[0]
    assert (donor.index, donor.wanted) == (2, 3)
    assert [next(steps), next(steps)] == [[(4, 5)], [(20, 21)]]
