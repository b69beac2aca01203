import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fpl_fast.trainer.models.network import build_network

TINY = {"backbone": "test_resnet", "head_channels": 24, "low_channels": 8}


def network_without_numbers(*arguments, **options):
    """A network of full size whose parameters have shapes alone: drawing its numbers takes a second."""
    with torch.device("meta"):
        return build_network(*arguments, **options)


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "backbone, num_classes, classifier, total",
    [("resnet50", 21, 5_397, 40_475_957), ("resnet101", 19, 4_883, 59_467_571)],
)
def test_parameters_of_cps_are_counted_as_published(backbone, num_classes, classifier, total):
    network = network_without_numbers(backbone, num_classes)
    assert num_parameters(network.head) == 16_838_752
    assert num_parameters(network.classifier) == classifier
    assert network.aux_head is None
    assert num_parameters(network) == total


@pytest.mark.parametrize(
    "backbone, num_classes, encoder, decoder, aux, total",
    [
        ("resnet50", 19, 23_631_808, 19_998_739, 2_364_947, 45_995_494),
        ("resnet101", 21, 42_623_936, 19_999_253, 2_365_461, 64_988_650),
    ],
)
def test_parameters_of_ael_are_counted_as_published(backbone, num_classes, encoder, decoder, aux, total):
    network = network_without_numbers(backbone, num_classes, head="ael", output_stride=8)
    assert num_parameters(network.backbone) == encoder
    assert num_parameters(network.head) + num_parameters(network.classifier) == decoder
    assert num_parameters(network.aux_head) == aux
    assert num_parameters(network) == total


@pytest.mark.parametrize("crop, main, aux", [(769, 193, 97), (513, 129, 65), (512, 129, 65)])  # 512: pooling rounds up
def test_sizes_of_ael(crop, main, aux):
    network = network_without_numbers("resnet50", 19, head="ael", output_stride=8)
    logits = network.forward_with_aux(torch.zeros(2, 3, crop, crop, device="meta"))
    assert [tuple(x.shape) for x in logits] == [(2, 19, main, main), (2, 19, aux, aux)]


@pytest.mark.parametrize(("backbone", "encoder"), [("resnet50", 23_508_032), ("resnet101", 42_500_160)])
def test_parameters_of_cac_are_counted_as_published(backbone, encoder):
    """spec/methods-corrections.md section 3.5."""
    network = network_without_numbers(backbone, 21, head="cac", stem="plain")
    assert num_parameters(network.backbone) == encoder
    assert num_parameters(network.head.aspp) == 15_535_104
    assert num_parameters(network.head.low) + num_parameters(network.head.refine) == 1_303_648
    assert num_parameters(network.classifier) == 5_397


def test_dropout_of_cac():
    """Half of the values after the pyramid and within the decoder, a tenth before the classifier, in training alone."""
    network = build_network(**TINY, num_classes=5, head="cac")
    rates = [m.p for m in network.head.modules() if isinstance(m, nn.Dropout)]
    assert rates == [0.5, 0.5] and network.dropout.p == 0.1
    decoded = torch.ones(2, 24, 8, 8)
    dropped = network.train().dropout(decoded)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.9)]
    assert dropped.eq(0).float().mean().item() == pytest.approx(0.1, abs=0.03)
    assert torch.equal(network.eval().classify(decoded), network.classifier(decoded))
    for head in ("cps", "unimatch"):
        other = build_network(**TINY, num_classes=5, head=head)
        assert other.dropout.p == 0 and not any(isinstance(m, nn.Dropout) for m in other.head.modules())


@pytest.mark.parametrize("head", ["cps", "cac"])
def test_initialisation_of_cps(head):
    torch.manual_seed(0)
    network = build_network("test_resnet", 11, head=head)
    for module in network.head.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.in_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.06)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert (module.eps, module.momentum) == (1e-5, 0.1)
    bound = 256**-0.5
    assert network.classifier.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.1)
    assert network.classifier.bias.abs().max() <= bound
    assert network.classifier.bias.std() > 0.2 * bound


def test_initialisation_of_ael_is_that_of_pytorch():
    network = build_network("test_resnet", 11, head="ael", output_stride=8)
    for module in (*network.head.modules(), *network.classifier.modules(), *network.aux_head.modules()):
        if isinstance(module, nn.Conv2d):  # uniform within 1 / sqrt(fan-in)
            fan_in = module.in_channels * module.kernel_size[0] ** 2
            assert module.weight.abs().max() <= fan_in**-0.5
            assert module.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.06)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-5, 0.1)


def test_two_networks_differ():
    first, second = build_network(num_classes=5, **TINY), build_network(num_classes=5, **TINY)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    assert not torch.equal(first.head.low[0].weight, second.head.low[0].weight)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (33, 34)])  # a multiple of 16, odd, just above one
def test_logits_have_stride_four_and_parts_compose(size):
    network = build_network(num_classes=5, **TINY).eval()
    image = torch.randn(2, 3, *size)
    logits = network(image)
    assert logits.shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))
    torch.testing.assert_close(network.classify(network.decode(network.encode(image))), logits)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext"])
def test_main_logits_do_not_depend_on_the_auxiliary_ones(backbone):
    network = build_network(backbone, 5, head="ael", head_channels=8).eval()
    image = torch.randn(2, 3, 64, 96)
    main, aux = network.forward_with_aux(image)
    torch.testing.assert_close(main, network(image), rtol=0, atol=0)
    torch.testing.assert_close(aux, network.aux_head(network.encode(image).middle), rtol=0, atol=0)


@pytest.mark.parametrize("head", ["cps", "ael", "unimatch"])
def test_every_parameter_gets_a_gradient(head):
    network = build_network(num_classes=5, head=head, **TINY)
    image = torch.randn(2, 3, 64, 64)
    logits = network.forward_with_aux(image) if network.aux_head is not None else (network(image),)
    sum(x.square().mean() for x in logits).backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []


def test_channels_last_and_autocast():
    network = build_network(num_classes=5, **TINY).eval().to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        low_precision = network(image)
    assert low_precision.dtype == torch.bfloat16
    assert low_precision.is_contiguous(memory_format=torch.channels_last)
    exact = network(image)
    assert (low_precision.float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name, value", [("num_classes", 1), ("head_channels", 0), ("low_channels", -3)])
def test_wrong_arguments(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least ., got {value}"):
        build_network(**TINY | {"num_classes": 5} | {name: value})


DOCUMENTED = re.findall(
    r"^\| (cps|ael) (\w+), (\d+) classes \| (\d+) \| ([\d.]+) \|$",
    Path(__file__).parents[1].joinpath("docs", "a100.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize("head, backbone, num_classes, crop, gflop", DOCUMENTED)
def test_operations_are_those_of_the_documentation(head, backbone, num_classes, crop, gflop):
    network = network_without_numbers(backbone, int(num_classes), head=head, output_stride=16 if head == "cps" else 8)
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, int(crop), int(crop), device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(float(gflop), abs=0.051)


def test_all_networks_are_documented():
    assert len(DOCUMENTED) == 8


def test_auxiliary_logits_are_compiled_with_the_network():
    network = build_network("test_resnet", 5, head="ael", head_channels=8).eval()
    image, graphs = torch.randn(2, 3, 32, 32), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    expected = network.forward_with_aux(image)
    network.compile(backend=backend, fullgraph=True)
    torch.testing.assert_close(network.forward_with_aux(image), expected)
    assert len(graphs) == 1


@pytest.mark.parametrize("head", ["cps", "ael"])
def test_the_classifier_reads_what_is_returned_with_the_logits(head):
    network = build_network("test_resnet", 7, head=head, head_channels=8).eval()
    image = torch.randn(2, 3, 32, 48)
    logits, decoded = network.forward_with_decoded(image)
    assert decoded.shape == (2, 8, 8, 12)
    torch.testing.assert_close(logits, network(image))
    torch.testing.assert_close(network.classifier(decoded), logits)
