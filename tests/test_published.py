import itertools
from decimal import Decimal

import pytest

from fpl_fast.trainer.recipes.published import _TABLES, BACKBONES, BASELINES, PARTITIONS, Published, find_published

QUOTED = ("mean_teacher", "cct", "gct", "u2pl")  # from work without this part
COLUMNS = {data: list(itertools.product(BACKBONES, parts)) for data, parts in PARTITIONS.items()}


@pytest.mark.parametrize("data", PARTITIONS)
def test_rows_have_a_number_for_every_column(data):
    for method, row in _TABLES[data].items():
        assert len(row.split()) == len(COLUMNS[data]), method
        for backbone, partition in COLUMNS[data]:
            cell = find_published(data, method, backbone, partition)
            assert (
                cell is not None
                or (data, method, backbone) == ("city", "u2pl", "resnet50")
                or ((data, partition) == ("city", "1/32") and method in QUOTED)
            )
            if cell is not None:
                assert 50 < cell.miou < 80
                assert (cell.gain is not None) == (method in BASELINES)


def test_gains_agree_with_their_rows():
    """All gains agree but one, which is printed so in the paper."""
    wrong, right = [], 0
    for data, (fpl, baseline) in itertools.product(PARTITIONS, BASELINES.items()):
        for column in COLUMNS[data]:
            after, before = find_published(data, fpl, *column), find_published(data, baseline, *column)
            if Decimal(str(after.miou)) - Decimal(str(before.miou)) == Decimal(str(after.gain)):
                right += 1
            else:
                wrong.append((data, fpl, *column))
    assert wrong == [("voc", "fpl_cps", "resnet50", "1/8")]
    assert right == 41


@pytest.mark.parametrize(
    ("data", "mean_gains"),
    # CPS, CPS with CutMix, AEL
    [("city", (0.97, 0.72, 1.01)), ("voc", (0.52, 0.65, 0.67))],
)
def test_mean_gains(data, mean_gains):
    for method, expected in zip(BASELINES, mean_gains, strict=True):
        gains = [
            find_published(data, method, *column).miou - find_published(data, BASELINES[method], *column).miou
            for column in COLUMNS[data]
        ]
        assert sum(gains) / len(gains) == pytest.approx(expected, abs=0.0051)


def test_cells():
    assert find_published("city", "fpl_cps_cutmix", "resnet101", "1/32") == Published(73.20, 0.69)
    assert find_published("voc", "cct", "resnet101", "1/16") == Published(67.94, None)
    assert find_published("voc", "gct", "resnet50", "1/8") == Published(70.47, None)
    assert find_published("city", "gct", "resnet101", "1/16") == Published(66.90, None)
    assert find_published("city", "u2pl", "resnet101", "1/4") == Published(78.51, None)
    assert find_published("city", "cct", "resnet50", "1/4") == Published(75.68, None)
    assert find_published("voc", "cutmix_seg", "resnet50", "1/4") == Published(72.46, None)
    for absent in (
        ("city", "cutmix_seg", "resnet50", "1/8"),
        ("voc", "cps", "resnet50", "1/2"),
        ("voc", "cps", "resnet18", "1/8"),
        ("folder", "cps", "resnet50", "1/8"),
        ("city", "mean_teacher", "resnet101", "1/32"),
    ):
        assert find_published(*absent) is None
