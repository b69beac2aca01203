"""Choice of the labelled part of a training set without a list file: fixed by the images' names, and nested."""

import hashlib
from collections.abc import Mapping, Sequence, Set

__all__ = ["choose_labelled", "partition_size"]


def partition_size(num_images: int, denominator: int) -> int:
    """Count the images of the part 1 / denominator, rounded up as in the public lists (10 582 / 16 gives 662)."""
    return -(-num_images // denominator)


def choose_labelled(
    ids: Sequence[str], denominator: int, *, known: Mapping[int, Set[str]] | None = None, seed: int = 0
) -> set[str]:
    """Choose the ids of a labelled part 1 / denominator.

    All ids are ranked, and the part is the beginning of the ranking, so that smaller parts lie inside larger ones. The
    SHA-256 of "<seed> <id>" decides an id's rank, independently of the order of the list, the machine and the library.
    Parts that are known from list files come first in the ranking, smallest part first: the choice contains the known
    smaller parts and lies inside the known larger ones, as far as these are nested themselves.

    Args:
        ids: Names of all training images, without duplicates.
        denominator: 16 for 1/16.
        known: For each denominator with a list file, its labelled ids.
        seed: Seed of the choice.

    Example:
        >>> ids = [f"image_{number}" for number in range(10)]
        >>> choose_labelled(ids, 8) <= choose_labelled(ids, 4)
        True
    """
    descending = sorted((known or {}).items(), reverse=True)

    def place(name: str) -> tuple[int, str]:
        part = next((rank for rank, (_, names) in enumerate(descending) if name in names), len(descending))
        return part, hashlib.sha256(f"{seed} {name}".encode()).hexdigest()

    return set(sorted(ids, key=place)[: partition_size(len(ids), denominator)])
