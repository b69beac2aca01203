import logging
import os

import pytest
import torch
from safetensors.torch import save_file

from fpl_fast.trainer.models.backbone import Backbone
from fpl_fast.trainer.models.weights import load_weights

TINY = "test_resnet"  # 0.4 million parameters


def resnet50_v1c(stem):
    """The tensors of a public file for the deep-stem ResNet-50, name by name; one number each, so that it is small."""

    def norm(name, channels):
        return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}

    convs = zip(stem[::2], ((64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)), strict=True)
    shapes = {f"{name}.weight": shape for name, shape in convs}
    for name, channels in zip(stem[1::2], (64, 64, 128), strict=True):
        shapes |= norm(name, channels)
    before = 128
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for i, shape in enumerate([(width, before, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)], start=1):
                shapes |= {f"{name}.conv{i}.weight": shape} | norm(f"{name}.bn{i}", shape[0])
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (4 * width, before, 1, 1)}
                shapes |= norm(f"{name}.downsample.1", 4 * width)
            before = 4 * width
    shapes |= {"fc.weight": (1000, 2048), "fc.bias": (1000,)}
    return {name: torch.rand(()).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "stem",
    [
        ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"),
        ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"),
        ("stem.0", "stem.1", "stem.3", "stem.4", "stem.6", "stem.7"),
    ],
)
def test_files_of_the_deep_stem_resnets(tmp_path, caplog, stem):
    state = resnet50_v1c(stem)
    torch.save(state, tmp_path / "resnet50_v1c.pth")
    with caplog.at_level(logging.INFO):
        encoder = Backbone("resnet50", weights_file=tmp_path / "resnet50_v1c.pth").encoder
    names = dict(zip(stem, ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"), strict=True))
    loaded = encoder.state_dict()
    for name, value in state.items():
        prefix, _, leaf = name.rpartition(".")
        if prefix != "fc":
            assert torch.equal(loaded[f"{names.get(prefix, prefix)}.{leaf}"], value), name
    assert "lacks" not in caplog.text
    assert "not used: fc.weight, fc.bias" in caplog.text


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_file(tmp_path, caplog, wrap, prefix):
    source = Backbone(TINY)
    state = {prefix + name: value for name, value in source.encoder.state_dict().items()}
    dropped = prefix + "conv1.0.weight" if prefix + "conv1.0.weight" in state else next(iter(state))
    del state[dropped]
    torch.save(wrap(state | {"fc.bias": torch.zeros(3)}), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        loaded = Backbone(TINY, weights_file=tmp_path / "w.pth").encoder.state_dict()
    for name, value in source.encoder.state_dict().items():
        assert prefix + name == dropped or torch.equal(loaded[name], value)
    assert f"w.pth lacks {dropped.removeprefix('module.')}" in caplog.text
    assert "w.pth: not used: fc.bias" in caplog.text


def test_safetensors(tmp_path):
    source = Backbone(TINY).encoder.state_dict()
    save_file(source, tmp_path / "w.safetensors")
    loaded = Backbone(TINY, weights_file=tmp_path / "w.safetensors").encoder.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in source.items())


def test_loading_runs_no_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"weight": Payload()}, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w\.pth: weights_file must be .*holds more than tensors and could run"
    ) as error:
        load_weights(torch.nn.Linear(2, 3), tmp_path / "w.pth")
    assert "weights_only" not in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_another_deep_stem_is_named(tmp_path):
    """The 32-32-64 stem that other collections call v1c."""
    first = Backbone(TINY).encoder.conv1[0].weight.detach()
    torch.save({"conv1.0.weight": first[: len(first) // 2]}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: conv1\.0\.weight must have the shape \(.*\), got \("):
        Backbone(TINY, weights_file=tmp_path / "w.pth")


def test_bad_weights_files(tmp_path):
    path = tmp_path / "w.pth"

    def fails(message):
        with pytest.raises(ValueError, match=message) as error:
            load_weights(torch.nn.Linear(2, 3), path)
        assert "\n" not in str(error.value)

    fails("w.pth: weights_file must be a readable file of weights, got .*No such file")
    path.write_bytes(b"not weights")
    fails("w.pth: weights_file must be a readable file of weights, got ")
    torch.save([torch.zeros(2)], path)
    fails("w.pth: weights_file must hold a dict of tensors, got list")
    torch.save({"conv.weight": torch.zeros(2)}, path)
    fails("w.pth: weights_file must share names with the backbone, got conv.weight")
    torch.save({"weight": torch.zeros(2, 2)}, path)
    fails(r"w.pth: weight must have the shape \(3, 2\), got \(2, 2\)")
