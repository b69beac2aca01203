import pytest

from fpl_fast.bench.training.cards import matrix_tflops


@pytest.mark.parametrize(
    ("device", "half", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", True, 989.4),
        ("NVIDIA H100 80GB HBM3", False, 494.7),
        ("NVIDIA H100 PCIe", True, 756.0),  # not the first name that fits
        ("NVIDIA A100-SXM4-80GB", True, 312.0),
        ("NVIDIA A40", False, 74.8),
        ("Tesla T4", True, None),
    ],
)
def test_rates_by_the_longest_name(device, half, rate) -> None:
    assert matrix_tflops(device, half=half) == rate
