"""Published results: mIoU on the validation images, as the paper prints it, for every row that can be trained.

Source: Fuzzy Positive Learning (CVPR 2023), tables 1 (Cityscapes) and 2 (PASCAL VOC 2012, augmented). The rows CPS, CPS
with CutMix and AEL are runs of its authors, in the environment of the FPL rows; MT, CCT, GCT, CutMix-Seg, CAC and U2PL
are quoted there from earlier work. The paper does not say how many runs a number stands for, nor which checkpoint.
"""

from typing import NamedTuple

__all__ = ["BACKBONES", "BASELINES", "PARTITIONS", "Published", "find_published"]


class Published(NamedTuple):
    """Values in a cell of a table."""

    miou: float
    """Per cent."""
    gain: float | None
    """Points over the row without FPL, where the table prints them."""


BACKBONES = ("resnet50", "resnet101")
PARTITIONS = {"voc": ("1/16", "1/8", "1/4"), "city": ("1/32", "1/16", "1/8", "1/4")}

# The row that a gain refers to.
BASELINES = {"fpl_cps": "cps", "fpl_cps_cutmix": "cps_cutmix", "fpl_ael": "ael"}

# Columns: all partitions with the first backbone, then with the second; "-": the table has no number.
_TABLES = {
    "voc": {
        "mean_teacher": "66.77 70.78 73.22  70.59 73.20 76.62",
        "cct": "65.22 70.87 73.43  67.94 73.00 76.17",
        "cutmix_seg": "68.90 70.70 72.46  72.56 72.69 74.25",
        "gct": "64.05 70.47 73.45  69.77 73.30 75.25",
        "cac": "70.10 72.40 74.00  72.40 74.60 76.30",
        "cps": "68.13 72.79 74.24  72.50 74.97 77.14",
        # +0.36 is printed, though 73.03 - 72.79 is 0.24; all other gains agree with their rows.
        "fpl_cps": "68.67+0.54 73.03+0.36 74.80+0.56  73.18+0.68 75.74+0.77 77.47+0.33",
        "cps_cutmix": "71.78 73.44 74.90  74.48 76.44 77.68",
        "fpl_cps_cutmix": "72.52+0.74 73.74+0.30 75.35+0.45  74.98+0.50 77.75+1.31 78.30+0.62",
        "ael": "69.93 73.17 75.50  74.20 76.58 77.98",
        "fpl_ael": "71.01+1.08 73.69+0.52 76.61+1.11  74.98+0.78 76.73+0.15 78.35+0.37",
    },
    "city": {
        "mean_teacher": "- 66.14 72.03 74.47  - 68.08 73.71 76.53",
        "cct": "- 66.35 72.46 75.68  - 69.64 74.48 76.35",
        "gct": "- 65.81 71.33 75.30  - 66.90 72.96 76.45",
        "u2pl": "- - - -  - 74.90 76.48 78.51",
        "cps": "54.40 68.68 73.06 75.75  59.70 71.22 74.98 77.45",
        "fpl_cps": "55.77+1.37 69.71+1.03 74.43+1.37 76.76+1.01  61.00+1.30 72.05+0.83 75.67+0.69 77.57+0.12",
        "cps_cutmix": "71.33 74.05 76.92 77.77  72.51 74.72 77.62 78.93",
        "fpl_cps_cutmix": "72.39+1.06 74.80+0.75 77.32+0.40 78.53+0.76  73.20+0.69 75.74+1.02 78.47+0.85 79.19+0.26",
        "ael": "68.39 74.03 75.83 76.18  73.00 75.26 78.07 78.26",
        "fpl_ael": "71.21+2.82 74.54+0.51 76.25+0.42 76.88+0.70  75.01+2.01 76.58+1.32 78.19+0.12 78.46+0.20",
    },
}


def find_published(data: str, method: str, backbone: str, partition: str) -> Published | None:
    """Find the paper's number for a recipe ``data/method`` with a backbone and a part of the labels, if it has one.

    Example:
        >>> find_published("city", "fpl_cps_cutmix", "resnet101", "1/16")
        Published(miou=75.74, gain=1.02)
    """
    columns = [(one, part) for one in BACKBONES for part in PARTITIONS.get(data, ())]
    row = _TABLES.get(data, {}).get(method)
    if row is None or (backbone, partition) not in columns:
        return None
    miou, _, gain = row.split()[columns.index((backbone, partition))].partition("+")
    return None if miou == "-" else Published(float(miou), float(gain) if gain else None)
