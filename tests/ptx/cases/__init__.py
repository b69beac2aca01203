"""The cases: a call of a launcher each, with what its results have to be."""

from ptx.cases import consistency, counts, ends, functions, fuzzy_positive, huge, labels, pixels, teachers, upsampled
from ptx.cases.table import CASES, QUICK, Case, draw

__all__ = [
    "CASES",
    "QUICK",
    "Case",
    "consistency",
    "counts",
    "draw",
    "ends",
    "functions",
    "fuzzy_positive",
    "huge",
    "labels",
    "pixels",
    "teachers",
    "upsampled",
]
