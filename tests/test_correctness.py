import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

from fpl_fast.bench.cases import IGNORE_INDEX, Case, make_inputs
from fpl_fast.bench.correctness import allowed_share, truth, wrong_share

CPU = torch.device("cpu")


def test_gate_stops_wrong_answers() -> None:
    case = Case(shape=(1, 7, 16, 16))
    inputs = make_inputs(case, CPU)
    expected = truth(case, CPU)
    loss, gradient = torch.tensor(expected.loss), expected.gradient / expected.count
    assert wrong_share(case, inputs, loss, gradient) == 0
    assert wrong_share(case, inputs, loss * 1.1, gradient) == 1
    assert wrong_share(case, inputs, loss * float("nan"), gradient) == 1
    assert wrong_share(case, inputs, loss, gradient.bfloat16()) == 1
    flipped = gradient.clone()
    flipped[:, :, 0, :4] += 1 / case.num_pixels
    assert wrong_share(case, inputs, loss, flipped) == pytest.approx(4 / 256)
    assert wrong_share(case, inputs, loss, torch.full_like(gradient, float("nan"))) == 1


def test_the_whole_batch_is_judged() -> None:
    """Also the images that repeat the two that were solved."""
    case = Case(shape=(5, 7, 8, 8))
    inputs, expected = make_inputs(case, CPU), truth(case, CPU)
    gradient = expected.gradient[[0, 1, 0, 1, 0]] / expected.count
    assert expected.count == case.num_pixels
    assert wrong_share(case, inputs, torch.tensor(expected.loss), gradient) == 0
    gradient[4] = 0
    share = wrong_share(case, inputs, torch.tensor(expected.loss), gradient)
    assert 0.15 < share <= 0.2


@pytest.mark.parametrize("images", [1, 2, 5])
def test_truth_of_upsampled_labels_is_that_of_torch(images) -> None:
    case = Case(shape=(images, 5, 6, 7), size=(19, 23), labels=True)
    inputs = make_inputs(case, CPU)
    z = inputs.student.detach().double().requires_grad_()
    logits = interpolate(z, case.size, mode="bilinear", align_corners=True)
    loss = cross_entropy(logits, inputs.label, ignore_index=IGNORE_INDEX)
    (gradient,) = torch.autograd.grad(loss, z)
    expected = truth(case, CPU)
    assert expected.loss == pytest.approx(loss.item())
    assert expected.count == (inputs.label != IGNORE_INDEX).sum()
    torch.testing.assert_close(expected.gradient / expected.count, gradient[:2].float())


def test_upsampling_allows_a_flip_as_many_positions_as_it_reaches() -> None:
    low = Case(shape=(1, 5, 8, 8), size=(32, 32))
    assert allowed_share(low, ordered_ties=False) == pytest.approx(64 * 1e-4)
    bf16 = Case(dtype=torch.bfloat16)
    assert allowed_share(bf16, ordered_ties=True) == 1e-4 and allowed_share(bf16, ordered_ties=False) == 0.05
