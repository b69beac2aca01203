"""CUDA graphs and streams: a captured step replays with new values, and streams share no state by accident."""

import pytest
import torch

from fpl_fast import adaptive_threshold, cross_entropy, fuzzy_positive_loss
from fpl_fast.kernels.arguments import ContextOptions
from fpl_fast.kernels.axis import axis
from fpl_fast.kernels.divergence import divergence_table

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


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("num_samples", "num_positions"), [(129, 513), (128, 512), (97, 769), (60, 41), (1, 5)])
def test_tables_have_the_same_bits_everywhere(num_samples, num_positions, align_corners):
    ours, expected = (
        axis(num_samples, num_positions, align_corners, torch.device(device)) for device in ("cuda:0", "cpu")
    )
    for table, on_cpu in zip(ours[:3], expected[:3], strict=True):
        assert torch.equal(table.cpu(), on_cpu)
    assert ours.max_span == expected.max_span


@pytest.mark.parametrize("options", [ContextOptions((), 3, 3), ContextOptions((), 5, 4)])
def test_terms_have_the_same_bits_everywhere(options):
    assert torch.equal(
        divergence_table(options, torch.device("cuda:0")).cpu(), divergence_table(options, torch.device("cpu"))
    )


def test_tables_may_be_made_in_a_capture():
    """The kernels are compiled, but the size comes for the first time."""
    size = (37, 59)
    student, teacher, *_ = draw(size)

    def run():
        loss = fuzzy_positive_loss(student, teacher, size=size, weighting="concave")
        return loss.detach(), *torch.autograd.grad(loss, student), adaptive_threshold(teacher, (0.8, 0.9), size=size)

    expected = run()
    axis.forget()
    divergence_table.forget()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for _ in range(2):
        for x in captured:
            x.zero_()
        graph.replay()
        for ours, theirs in zip(captured, expected, strict=True):
            assert torch.equal(ours, theirs)
    for ours, theirs in zip(run(), expected, strict=True):  # the graph's tables are not those of other calls
        assert torch.equal(ours, theirs)


def test_another_stream_waits_for_a_table():
    axis.forget()
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    for trial in range(20):
        with torch.cuda.stream(first):
            torch.cuda._sleep(10_000_000)  # the table is far from made when the other stream asks for it
            axis(50 + trial, 200 + trial, True, torch.device("cuda:0"))
        with torch.cuda.stream(second):
            seen = axis(50 + trial, 200 + trial, True, torch.device("cuda:0")).fraction.clone()
        torch.cuda.synchronize()
        assert torch.equal(seen.cpu(), axis(50 + trial, 200 + trial, True, torch.device("cpu")).fraction)
