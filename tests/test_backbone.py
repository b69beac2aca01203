import logging

import pytest
import torch

from fpl_fast.trainer.models.backbone import Backbone, load_weights

TINY = "test_resnet"  # 0.4 million parameters


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name, expected", [("resnet50", 23_631_808), ("resnet101", 42_623_936)])
def test_deep_stem_resnets_are_those_of_the_papers(name, expected):
    backbone = Backbone(name)
    assert num_parameters(backbone) == expected
    assert backbone.channels == (256, 2048)
    # multi-grid at output stride 16, without changing the stride of the 3x3 convolutions or of the shortcut
    convolutions = [block.conv2 for block in backbone.encoder.layer4]
    assert [conv.dilation[0] for conv in convolutions] == [conv.padding[0] for conv in convolutions] == [2, 4, 8]
    assert {conv.stride for conv in convolutions} == {(1, 1)}


@pytest.mark.parametrize(
    "name, size, low, high",
    [
        ("resnet50", (512, 512), (256, 128, 128), (2048, 32, 32)),
        ("resnet50", (800, 800), (256, 200, 200), (2048, 50, 50)),
        (TINY, (97, 130), (32, 25, 33), (96, 7, 9)),
        ("test_convnext", (64, 96), (24, 16, 24), (64, 4, 6)),
    ],
)
def test_feature_sizes(name, size, low, high):
    features = Backbone(name).to("meta")(torch.zeros(1, 3, *size, device="meta"))
    assert features.low.shape == (1, *low)
    assert features.high.shape == (1, *high)


@pytest.mark.parametrize("output_stride, extent", [(8, 8), (16, 4), (32, 2), (None, 2)])
def test_output_stride(output_stride, extent):
    features = Backbone(TINY, output_stride=output_stride)(torch.randn(2, 3, 64, 64))
    assert features.high.shape[-2:] == (extent, extent)
    assert features.low.shape[-2:] == (16, 16)


def test_encoders_with_channels_last_features():
    backbone = Backbone("test_mambaout", output_stride=None)
    features = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(feature.shape) for feature in features] == [
        (1, channels, height, width)
        for channels, height, width in zip(backbone.channels, (16, 2), (24, 3), strict=True)
    ]


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet51", {}, r"backbone must be .*, got 'resnet51' \(nearest: .*resnet50"),
        ("", {}, "backbone must be .*, got ''"),
        ("test_vit", {}, r"backbone must have features at stride 4, got strides \[16, 16, 16\] from 'test_vit'"),
        ("test_mambaout", {}, "output_stride must be 32 or None for the backbone 'test_mambaout'.*, got 16"),
    ],
)
def test_wrong_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        Backbone(name, **options)


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
