"""Memory of the gradient of windows: the result itself where its planes allow it, otherwise one for all windows."""

import pytest
import torch

from fpl_fast import consistency_loss, fuzzy_positive_loss
from fpl_fast.engines import chunked, distance_planes, packages, planes
from fpl_fast.engines.chunked import windows
from fpl_fast.engines.windows import GradientWindows, Spare


def collect(grad, parts, size=None):
    """Gradient of an image from parts, (C, H, W), by the places of windows of at most 20 pixels; the places."""
    collected, places = GradientWindows(grad, size, True), []
    for window in windows(*parts.shape[1:], 20):
        place = collected.place(window)
        assert place.stride(1) == 1 or place.shape[1] == 1
        place.copy_(parts[:, window.rows, window.columns].flatten(1))
        collected.add(window, place)
        places.append(place.data_ptr())
    collected.finish()
    return grad, places


@pytest.mark.parametrize("shape", [(3, 7, 9), (3, 4, 31), (2, 1, 50), (2, 50, 1), (4, 1, 1)])  # rows, parts of a row
@pytest.mark.parametrize("spread", [False, True])  # classes of an image whose planes do not follow each other
def test_planes_take_it_in_place(shape, spread):
    whole = torch.full((shape[0], 2, *shape[1:]), torch.nan)
    grad = whole[:, 0] if spread else torch.full(shape, torch.nan)
    expected = torch.randn(shape)
    found, places = collect(grad, expected)
    assert torch.equal(found, expected) and places[0] == grad.data_ptr() and len(set(places)) == len(places)


def test_other_layouts_and_sizes_use_one_memory():
    rows = torch.full((1, 3, 7, 9), torch.nan).contiguous(memory_format=torch.channels_last)[0]
    expected = torch.randn(3, 7, 9)
    found, places = collect(rows, expected)
    assert torch.equal(found, expected) and len(set(places)) == 1 and len(places) > 1
    assert places[0] != rows.data_ptr()
    upstream, low = torch.randn(3, 7, 9, dtype=torch.float64), torch.full((3, 3, 4), torch.nan, dtype=torch.float64)
    found, places = collect(low, upstream, (7, 9))
    student = torch.zeros(1, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    up = torch.nn.functional.interpolate(student, (7, 9), mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, torch.autograd.grad(up, student, upstream[None])[0][0])
    assert len(set(places)) == 1


@pytest.mark.parametrize("loss", ["fuzzy positive", "mse"])
def test_graphs_write_into_the_result(monkeypatch, loss):
    """With the graphs uncompiled: the planes that they are given for the gradient are its own."""
    module = planes if loss == "fuzzy positive" else distance_planes
    monkeypatch.setattr(packages, "unavailable_reason", lambda: None)
    given = []

    def load(specialisation):
        def evaluate(tensors):
            given.extend(tensors[-3:])
            return specialisation.evaluate(tensors)

        return evaluate

    monkeypatch.setattr(module.packages, "load", load)
    student, teacher = torch.randn(2, 3, 5, 7, requires_grad=True), torch.randn(2, 3, 5, 7)
    call = fuzzy_positive_loss if loss == "fuzzy positive" else consistency_loss
    (grad,) = torch.autograd.grad(call(student, teacher, engine="compiled"), student)
    (expected,) = torch.autograd.grad(call(student, teacher, engine="eager"), student)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)
    assert [x.data_ptr() for x in given] == [plane.data_ptr() for image in grad for plane in image]


def test_memory_is_used_again_and_grows():
    spare = Spare()
    first = spare.take((2, 8), torch.zeros(1))
    assert spare.take((3, 5), torch.zeros(1)).data_ptr() == first.data_ptr()
    assert spare.take((4, 8), torch.zeros(1)).shape == (4, 8) and spare.memory.numel() == 32


def test_images_of_a_call_share_it(monkeypatch):
    """Not one for each of them."""
    monkeypatch.setattr(packages, "load", lambda specialisation: specialisation.evaluate)
    monkeypatch.setattr(packages, "unavailable_reason", lambda: None)
    made = []
    monkeypatch.setattr(chunked, "Spare", lambda: made.append(Spare()) or made[-1])
    student, teacher = torch.randn(3, 4, 5, 7, requires_grad=True), torch.randn(3, 4, 5, 7)
    fuzzy_positive_loss(student, teacher, size=(9, 11), engine="compiled").backward()
    assert len(made) == 2 and all(x.memory is not None for x in made)
