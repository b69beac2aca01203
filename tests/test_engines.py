"""Choice of the engine, and the messages of refused engines."""

import warnings

import pytest
import torch

from fpl_fast.engines import choice, packages, planes


def logits(num_classes=5, pixels=4, dtype=torch.float32):
    return torch.zeros(1, num_classes, 1, pixels, dtype=dtype)


def resolve(engine, x):
    return choice.resolve(engine, x, x)


def test_auto_compiles_large_inputs_only():
    assert resolve("auto", logits()) == "eager"
    large = logits(pixels=choice.COMPILED_MIN_LOGITS)
    assert resolve("auto", large) == ("eager" if packages.unavailable_reason() else "compiled")
    assert resolve("auto", large.double()) == "eager"
    assert resolve("auto", logits(num_classes=planes.MAX_CLASSES + 1, pixels=choice.COMPILED_MIN_LOGITS)) == "eager"


def test_auto_falls_back_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    large = logits(pixels=choice.COMPILED_MIN_LOGITS)
    choice._warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # whoever named the engine is told by the error alone
        with pytest.raises(ValueError, match=r"'compiled' cannot run here: it needs a C\+\+ compiler.*'eager' can"):
            resolve("compiled", large)
    with pytest.warns(UserWarning, match="the slower engine='eager' does"):
        assert resolve("auto", large) == "eager"
    choice._warn_once.cache_clear()


@pytest.mark.parametrize(
    ("engine", "x", "reason"),
    [
        ("compiled", logits(num_classes=33), "at most 32 classes and the logits have 33"),
        ("compiled", logits(dtype=torch.float64), "computes in float32 and the logits are float64"),
        ("triton", logits(dtype=torch.float64), "computes in float32 and the logits are float64"),
    ],
)
def test_refusals_say_why_and_name_an_engine_that_can(engine, x, reason):
    with pytest.raises(ValueError, match=f"engine='{engine}' cannot run here: .*{reason}; engine='eager' can"):
        resolve(engine, x)


def test_triton_needs_a_device(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="needs a CUDA or ROCm device and the logits are on cpu"):
        resolve("triton", logits())


def test_mixed_precision_with_a_float64_teacher():
    with pytest.raises(ValueError, match="float64"):
        choice.resolve("triton", logits(), logits().double())
