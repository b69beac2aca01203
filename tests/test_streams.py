"""CUDA graphs and streams: a captured step replays with new values, and streams share no state by accident."""

import pytest
import torch

from fpl_fast import cross_entropy, fuzzy_positive_loss

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
SIZES = [None, (41, 67)]


def draw(size):
    shape = (2, 19, 41, 67) if size is None else (2, 19, 11, 17)
    student, teacher = (torch.randn(shape, device="cuda") for _ in range(2))
    label = torch.randint(19, (2, 41, 67), device="cuda")
    return student.requires_grad_(), teacher, label, torch.rand(2, 41, 67, device="cuda") < 0.5


def step(student, teacher, label, mask, size):
    """Both losses and the gradient of their sum."""
    losses = (
        fuzzy_positive_loss(student, teacher, size=size, weighting="concave", valid_mask=mask),
        cross_entropy(student, label, size=size),
    )
    (gradient,) = torch.autograd.grad(sum(losses), student)
    return [loss.detach() for loss in losses] + [gradient]


@pytest.mark.parametrize("size", SIZES)
def test_a_captured_step_replays_with_new_values(size):
    inputs = draw(size)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as PyTorch asks of every capture: compiled and warm
        for _ in range(3):
            step(*inputs, size)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(*inputs, size)
    for _ in range(3):
        fresh = draw(size)
        with torch.no_grad():
            for ours, new in zip(inputs, fresh, strict=True):
                ours.copy_(new)
        graph.replay()
        for ours, expected in zip(captured, step(*fresh, size), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("size", SIZES)
def test_streams_do_not_wait_for_each_other_in_vain(size):
    """The first use of each size may be on any stream, and its tables must be there for all."""
    jobs = [(draw(size), torch.cuda.Stream()) for _ in range(4)]
    torch.cuda.synchronize()
    results = []
    for inputs, stream in jobs:
        with torch.cuda.stream(stream):
            results.append(step(*inputs, size))
    torch.cuda.synchronize()
    for (inputs, _), found in zip(jobs, results, strict=True):
        for ours, expected in zip(found, step(*inputs, size), strict=True):
            assert torch.equal(ours, expected)
