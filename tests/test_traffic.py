import torch

from fpl_fast.bench.cases import Case
from fpl_fast.bench.traffic import minimum_bytes


def test_bytes_by_hand() -> None:
    case = Case(shape=(2, 19, 512, 512))
    assert minimum_bytes(case, "both") == 3 * 39_845_888  # 2 * 19 * 512 * 512 * 4 bytes a stream
    assert minimum_bytes(case, "forward") == 2 * 39_845_888
    assert minimum_bytes(case, "backward") is None


def test_upsampling_moves_low_resolution_logits() -> None:
    case = Case(shape=(2, 19, 128, 128), size=(512, 512), dtype=torch.bfloat16)
    assert minimum_bytes(case, "both") == 3 * 2 * 19 * 128 * 128 * 2


def test_labels_are_eight_bytes_a_pixel() -> None:
    case = Case(shape=(1, 3, 5, 7), size=(10, 14), labels=True)
    assert minimum_bytes(case, "forward") == 3 * 5 * 7 * 4 + 140 * 8
    assert minimum_bytes(case, "both") == 2 * 3 * 5 * 7 * 4 + 140 * 8
