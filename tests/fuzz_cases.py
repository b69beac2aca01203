"""Cases of the fuzzing campaign: a case is a loss, one value for each of its settings, and a seed of its numbers.

The values of a setting stand in the order of their simplicity, so that a case shrinks by moving settings to the front.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterator
from typing import Any

DTYPES = ("float32", "float64", "float16", "bfloat16")
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "strided", "expanded", "negative")
PIXEL_LAYOUTS = ("contiguous", "transposed", "sliced", "strided", "expanded")
CONTENTS = ("normal", "zeros", "ties", "signed zeros", "flat", "sharp", "large", "denormal", "all magnitudes",
            "masked classes", "edge", "overflow", "not finite")  # fmt: skip

SHAPE = {"n": (1, 2, 3, 0), "c": (2, 3, 4, 5, 7, 19, 32, 33, 150), "h": (1, 2, 3, 6, 0), "w": (1, 2, 3, 5, 17, 700, 0)}
UPSAMPLING = {"size": (None, "same", "up", "down", "one"), "align_corners": (True, False)}
STUDENT = {"dtype": DTYPES, "layout": LAYOUTS, "content": CONTENTS, "upstream": (1.0, 0.37, 0.0), "threads": (1, 2)}
TEACHER = {"teacher_dtype": DTYPES, "teacher_layout": LAYOUTS, "teacher_content": CONTENTS}
MIXING = {"partner_dtype": (None, *DTYPES), "mix": ("some", "all", "nothing"), "pixel_layout": PIXEL_LAYOUTS}
VALID = {"valid": (None, "all", "some", "few", "nothing")}
THRESHOLD = {"threshold": (0.9, 1.0, 0.5, 0.75, 1e-3, "pixels"), "max_positives": (None, 1, 2, 3, 4, 1000)}
REDUCED = {"reduction": ("none", "sum", "mean", "weighted_mean"), "return_stats": (False, True)}
WEIGHT = {"pixel_weight": (None, "float32", "float64", "float16", "zeros", "nan where excluded")}
GATE = {"confidence_threshold": (0.0, 0.3, 0.6, 1.0), "confidence_power": (0.0, 1.0, 2.0, 0.5)}
TARGET = {"target_dtype": ("int64", "int32", "uint8"), "ignore_index": (255, 0, -1, 300, 2**40),
          "labels": ("some ignored", "all classes", "one class", "all ignored", "no class")}  # fmt: skip
PSEUDO_LABEL = SHAPE | UPSAMPLING | STUDENT | TEACHER | MIXING | VALID | WEIGHT | GATE | REDUCED

SETTINGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "fuzzy_positive_loss": PSEUDO_LABEL
    | THRESHOLD
    | {
        "weighting": ("none", "linear", "convex", "concave"),
        "convex_scale": (1.0, 0.0, 4.0),
        "form": ("smooth", "hinge"),
        "balance": (False, True),
    },
    "pseudo_label_cross_entropy": PSEUDO_LABEL,
    "consistency_loss": SHAPE
    | UPSAMPLING
    | STUDENT
    | TEACHER
    | MIXING
    | VALID
    | WEIGHT
    | {"kind": ("mse", "kl"), "reduction": ("none", "sum", "mean")},
    "cross_entropy": SHAPE
    | UPSAMPLING
    | STUDENT
    | TARGET
    | WEIGHT
    | {"weight": (None, "float32", "float64", "zeros"), "reduction": ("none", "sum", "mean")}
    | {"pixel_layout": PIXEL_LAYOUTS},
    "ohem_cross_entropy": SHAPE
    | UPSAMPLING
    | STUDENT
    | TARGET
    | {"min_kept": (1, 3, 20, 10**6), "threshold": (0.7, 1.0, 0.01), "group_size": (1, "all")}
    | {"pixel_layout": PIXEL_LAYOUTS},
    "fuzzy_positive_assignment": SHAPE | TEACHER | THRESHOLD | {"pixel_layout": PIXEL_LAYOUTS},
    "pseudo_labels": SHAPE
    | UPSAMPLING
    | TEACHER
    | MIXING
    | {"threshold": (None, 0.9, 1.0, 0.5, 1e-3), "max_positives": (None, 1, 2, 1000)},
    "adaptive_threshold": SHAPE
    | UPSAMPLING
    | TEACHER
    | MIXING
    | VALID
    | {
        "thresholds": ((0.84, 0.89, 0.94, 0.99), (0.9,), (0.3, 0.9), (0.5, 1.0), (0.1, 0.3, 0.5, 0.7, 0.9)),
        "window": (3, 5, 7, 15),
        "max_positives": (4, 1, 2, None),
    },
    "opinfo": {"sample": tuple(range(35)), "dtype": DTYPES, "layout": LAYOUTS},
}

# Values that are drawn less often than others: without a pixel nothing is computed, and large inputs take long.
SELDOM = {("n", 0), ("h", 0), ("w", 0), ("c", 150), ("threads", 2), ("valid", "nothing"), ("labels", "all ignored"),
          ("upstream", 0.0), ("labels", "no class"), ("window", 15), ("pixel_weight", "zeros"), ("dtype", "float64"),
          ("teacher_dtype", "float64"), ("partner_dtype", "float64")}  # fmt: skip
# Interpolation leaves out the pixels whose ranks hang on rounding.
WEIGHTS = {("w", 700): 0.005, ("size", None): 4.0, **dict.fromkeys(SELDOM, 0.2)}
# In Triton's interpreter a program takes a tenth of a second.
SMALL = {"n": (1, 2, 0), "c": (2, 3, 4, 5, 7, 19), "h": (1, 2, 3), "w": (1, 2, 3, 5, 0), "window": (3, 5)}


@dataclasses.dataclass(frozen=True)
class Case:
    """One input of one loss.

    Attributes:
        loss: Name of the function.
        seed: Of the numbers in its tensors.
        small: Whether it is drawn from ``SMALL`` shapes, for Triton's interpreter.
        settings: Values by name.
        pinned: Settings that stay as they are.
    """

    loss: str
    seed: int
    small: bool
    settings: dict[str, Any]
    pinned: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """The settings that are not the simplest ones."""
        chosen = [f"{name}={value!r}" for name, value in self.settings.items() if value != SETTINGS[self.loss][name][0]]
        return f"{self.loss}({', '.join(chosen)}), numbers of seed {self.seed}"

    def shrink(self) -> Iterator["Case"]:
        """Simpler cases: each setting at every simpler value, the simplest first."""
        for name, value in self.settings.items():
            for simpler in SETTINGS[self.loss][name]:
                if simpler == value or name in self.pinned:
                    break
                yield dataclasses.replace(self, settings=self.settings | {name: simpler})


def draw(seed: int, number: int, pinned: dict[str, Any] | None = None) -> Case:
    """The case of this number in the campaign of this seed; ``pinned`` settings have one value."""
    chance = random.Random(f"{seed} {number}")  # of text: neighbouring numbers have nothing in common
    loss = chance.choice([*SETTINGS, "fuzzy_positive_loss", "fuzzy_positive_loss"])
    small = chance.random() < 0.04
    settings = {}
    for name, values in SETTINGS[loss].items():
        allowed = SMALL.get(name, values) if small else values
        weights = [WEIGHTS.get((name, x), 1.0) for x in allowed]
        settings[name] = chance.choices(allowed, weights)[0]
    if settings.get("w") == 700:
        settings["c"] = min(settings["c"], 7)
    pinned = {name: value for name, value in (pinned or {}).items() if name in settings}
    return Case(loss, chance.getrandbits(32), small, settings | pinned, frozenset(pinned))


def pairs(case: Case) -> Iterator[str]:
    """The pairs of values of two settings that a case covers."""
    for (a, x), (b, y) in itertools.combinations(case.settings.items(), 2):
        yield f"{case.loss} {a}={x} {b}={y}"


def num_pairs() -> int:
    """Number of pairs that there are."""
    return sum(len(x) * len(y) for values in SETTINGS.values() for x, y in itertools.combinations(values.values(), 2))
