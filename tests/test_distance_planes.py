"""The compiled class planes of the consistency loss, and the compiled upsampling, whose graphs they share.

Uncompiled, tests/test_consistency_loss.py and tests/test_plane_rows.py have them.
"""

import itertools

import pytest
import torch
from fuzz_checks import same_bits, threads
from instruction_sets import probe_once
from row_cases import UPSAMPLED, windows_of
from tolerances import GRADIENT, INVARIANT
from torch.testing import assert_close

from fpl_fast import consistency_loss
from fpl_fast.engines import choice, packages, plane_rows
from fpl_fast.engines.windows import GradientWindows, LogitWindows, Window

SIZES = [(64, 64), (200, 300), (1, 140_000), (37, 41), (3, 5), (1, 1), (2, 1), (1, 2)]
LAYOUTS = (torch.contiguous_format, torch.channels_last)
# Names of its two packages, which serve whatever is upsampled.
UPSAMPLING = {packages._file_name(graph) for graph in (plane_rows.Forward(), plane_rows.Adjoint())}

needs_compiler = pytest.mark.skipif(packages.unavailable_reason() is not None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cache of packages that the tests of this file share: two of them upsample."""
    return tmp_path_factory.mktemp("packages")


@pytest.fixture
def cache(monkeypatch, folder):
    """Names of the packages in the cache, as a function; nothing loaded."""
    probe_once(monkeypatch)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    packages._load.cache_clear()
    yield lambda: {path.name for path in (folder / "fpl_fast").glob("*")}
    packages._load.cache_clear()


def call(tensors, **keywords):
    """Loss and gradient; tensors by the name of their argument."""
    student = tensors["student_logits"].detach().requires_grad_()
    loss = consistency_loss(**tensors | {"student_logits": student}, **keywords)
    return [loss.detach(), *torch.autograd.grad(loss, student)]


def draw(shape, pixels, dtype, layouts=LAYOUTS[:1] * 2):
    logits = {name: (3 * torch.randn(shape)).to(dtype) for name in ("student_logits", "teacher_logits")}
    tensors = {
        name: x.contiguous(memory_format=layout) for (name, x), layout in zip(logits.items(), layouts, strict=True)
    }
    weight = torch.rand(shape[0], *pixels[::-1]).transpose(1, 2)
    return tensors | {"pixel_weight": weight, "valid_mask": torch.rand(weight.shape) > 0.3}


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dtype"), [("mse", torch.bfloat16), ("kl", torch.float32)])
def test_one_package_serves_every_size_and_layout(cache, kind, dtype):
    """A single pixel, rows of odd length, more than a chunk; the same bits again, with other threads, for an image."""
    keywords, before = {"kind": kind, "reduction": "sum"}, cache()
    for (height, width), layouts in itertools.product(SIZES, itertools.product(LAYOUTS, LAYOUTS)):
        tensors = draw((1, 4, height, width), (height, width), dtype, layouts)
        tensors["valid_mask"][0, 0, 0] = True
        loss, grad = call(tensors, engine="compiled", **keywords)
        expected, expected_grad = call(tensors, engine="eager", **keywords)
        assert_close(loss, expected, **INVARIANT)
        assert grad.stride() == expected_grad.stride() and grad.dtype == dtype and expected_grad.abs().sum() > 0
        assert_close(grad.double(), expected_grad.double(), **GRADIENT[dtype])
        for number in (1, 3):
            with threads(number):
                assert all(map(same_bits, call(tensors, engine="compiled", **keywords), (loss, grad)))
    (package,) = cache() - before
    assert package.endswith(".pt2")
    if dtype != torch.float32:  # interpolated logits are: their graph is the other case's
        return

    batch = draw((3, 4, 9, 11), (150, 131), dtype)
    _, whole = call(batch, size=(150, 131), engine="compiled", **keywords)
    for i in range(3):
        image = {name: x[i : i + 1] for name, x in batch.items()}
        assert same_bits(call(image, size=(150, 131), engine="compiled", **keywords)[1], whole[i : i + 1])
    assert_close(whole, call(batch, size=(150, 131), engine="eager", **keywords)[1], **GRADIENT[dtype])
    assert cache() == before | {package} | UPSAMPLING


@needs_compiler
@pytest.mark.slow
def test_compiled_upsampling_with_any_number_of_threads(cache):
    """The same bits with any number of threads, of the logits and of their gradient."""
    before = cache()
    for low, size in [*UPSAMPLED, ((50, 60), (397, 391))]:
        logits, upstream = torch.randn(3, *low), torch.randn(3, *size)
        found = []
        for number in (1, 2, 3):
            with threads(number):
                reader = LogitWindows([logits], size, True, torch.float32, plane_rows.COMPILED)
                grad = torch.empty_like(logits)
                writer = GradientWindows(grad, size, True, plane_rows.COMPILED)
                read = []
                for window in windows_of(size, 100, size[1]):
                    read += [x.clone() for x in reader.columns(window)]
                    writer.add(window, upstream[:, window.rows, window.columns].flatten(1))
                writer.finish()
                found.append((torch.cat(read, 1), grad))
        for other in found[1:]:
            assert all(map(same_bits, other, found[0]))
        whole = Window(slice(0, size[0]), slice(0, size[1]))
        (expected,) = LogitWindows([logits], size, True, torch.float32).columns(whole)
        assert_close(found[0][0], expected, **INVARIANT)
        expected_grad = torch.empty_like(logits)
        eagerly = GradientWindows(expected_grad, size, True)
        eagerly.add(whole, upstream.flatten(1))
        eagerly.finish()
        assert_close(found[0][1], expected_grad, **GRADIENT[torch.float32])
    assert cache() == before | UPSAMPLING


@needs_compiler
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_auto_compiles_large_inputs_only_and_goes_on_where_it_cannot(monkeypatch, reduction):
    """One warning, then the eager engine's bits; by name an error."""
    asked = []

    def load(specialisation):
        asked.append(specialisation.purpose)
        raise packages.UnavailableError("no headers")

    monkeypatch.setattr(packages, "load", load)
    choice._warn_once.cache_clear()
    small, large = torch.randn(1, 3, 30, 30), torch.randn(1, 3, 300, 300)
    consistency_loss(small, -small, reduction=reduction)
    assert asked == []
    with pytest.warns(UserWarning, match="engine='compiled' cannot run here: no headers") as caught:
        for _ in range(2):
            loss = consistency_loss(large, -large, reduction=reduction)
    assert len(caught) == 1 and asked == 2 * ["the consistency loss"]
    assert torch.equal(loss, consistency_loss(large, -large, reduction=reduction, engine="eager"))
    with pytest.raises(ValueError, match="engine='compiled' cannot run here: no headers; engine='eager' can"):
        consistency_loss(small, -small, reduction=reduction, engine="compiled")
    with pytest.raises(ValueError, match="at most 32 classes and the logits have 33; engine='eager' can"):
        many = torch.randn(1, 33, 2, 2)
        consistency_loss(many, many, reduction=reduction, engine="compiled")
    choice._warn_once.cache_clear()
