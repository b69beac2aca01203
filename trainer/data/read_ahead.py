"""How far loaders read ahead; apart from them, for configurations, which are read without torch."""

__all__ = ["BATCHES_AHEAD"]

BATCHES_AHEAD = 2
"""Batches that each loader process reads ahead."""
