import re

import pytest
import timm
import torch
from installed_packages import in_the_packages_naming

from fpl_fast.trainer.models.efficientnet_names import rename_efficientnet
from fpl_fast.trainer.models.weights import load_weights


def numbered(model):
    """Tensors of a model, each filled with its own number, so that two of one shape differ."""
    shapes = timm.create_model(model).state_dict()
    return {name: torch.tensor(i).expand(value.shape) for i, (name, value) in enumerate(shapes.items())}


@pytest.mark.parametrize(
    "model", ["tf_efficientnet_lite0", "tf_efficientnet_b1"]
)  # without and with squeeze-excitation
@pytest.mark.parametrize("order", [list, lambda names: list(reversed(names)), sorted])
def test_every_layer_is_found_by_its_name_in_any_order(model, order):
    state = numbered(model)
    named = in_the_packages_naming(state)
    assert "_blocks.0._project_conv.weight" in named
    renamed = rename_efficientnet({name: named[name] for name in order(named)}, state)
    assert renamed.keys() == state.keys()
    assert all(torch.equal(renamed[name], state[name]) for name in state)


def test_other_files_keep_their_names():
    state = {"conv1.weight": torch.zeros(1), "bn1.weight": torch.zeros(1)}
    assert rename_efficientnet(state, ["conv1.weight"]) == state


def drop(names, pattern):
    return {name: value for name, value in names.items() if not re.match(pattern, name)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: drop(s, r"_blocks\.15\."), "got an EfficientNet of 15 blocks for a backbone with 16 such blocks"),
        (lambda s: drop(s, r"_blocks\.7\."), "got an EfficientNet of 15 blocks for"),
        (
            lambda s: drop(s, r"_blocks\.5\._bn1\."),
            r"hold every layer of the backbone, got none for blocks\.\d\.\d\.bn2\.",
        ),
        (
            lambda s: drop(s, r"_blocks\.5\._expand"),
            r"hold the layers of an EfficientNet, got _blocks\.5\._bn0\.weight",
        ),
        (lambda s: s | {"_blocks.2._se_reduce.weight": torch.zeros(1)}, None),  # not a layer of this one: not used
        (lambda s: s | {"_blocks.2.odd.weight": torch.zeros(1)}, r"of an EfficientNet, got _blocks\.2\.odd\.weight"),
        (lambda s: s | {"epoch": torch.zeros(1)}, "of an EfficientNet, got epoch"),
        (lambda s: s | {"_bn0.weight": torch.zeros(31)}, r"bn1\.weight must have the shape \(32,\), got \(31,\)"),
        (
            lambda s: s | {"_bn0.weight": s["_conv_stem.weight"]},
            r"bn1\.weight must have the shape \(32,\), got \(32, 3,",
        ),
    ],
)
def test_files_of_other_networks_are_one_line(tmp_path, change, message):
    encoder = timm.create_model("tf_efficientnet_lite0", features_only=True)
    state = change(in_the_packages_naming(timm.create_model("tf_efficientnet_lite0").state_dict()))
    torch.save(state, tmp_path / "w.pth")
    if message is None:
        load_weights(encoder, tmp_path / "w.pth")
        return
    with pytest.raises(ValueError, match=rf"w\.pth: .*{message}") as error:
        load_weights(encoder, tmp_path / "w.pth")
    assert "\n" not in str(error.value)


def test_an_efficientnet_does_not_fit_another_backbone(tmp_path):
    torch.save(in_the_packages_naming(timm.create_model("tf_efficientnet_lite0").state_dict()), tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w\.pth: .* got an EfficientNet of 16 blocks for a backbone with 0 such blocks"
    ):
        load_weights(timm.create_model("test_resnet", features_only=True), tmp_path / "w.pth")
