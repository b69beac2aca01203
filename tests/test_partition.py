import itertools
import random

import pytest

from fpl_fast.trainer.data.partition import choose_labelled, partition_size

DENOMINATORS = (32, 16, 8, 4, 2)


def names(number):
    return [f"image_{random.random()}" for _ in range(number)]


@pytest.mark.parametrize(
    ("number", "sizes"),
    [(2975, (93, 186, 372, 744, 1488)), (10582, (331, 662, 1323, 2646, 5291)), (1464, (46, 92, 183, 366, 732))],
)
def test_sizes_are_those_of_the_public_lists(number, sizes):
    assert tuple(partition_size(number, d) for d in DENOMINATORS) == sizes


def test_parts_are_nested_and_of_the_right_size():
    ids = names(101)
    parts = [choose_labelled(ids, d) for d in DENOMINATORS]
    assert [len(part) for part in parts] == [4, 7, 13, 26, 51]
    assert all(small < large for small, large in itertools.pairwise(parts))


def test_order_does_not_matter_but_the_seed_does():
    ids = names(200)
    chosen = choose_labelled(ids, 4, seed=1)
    assert choose_labelled(random.sample(ids, len(ids)), 4, seed=1) == chosen
    assert choose_labelled(ids, 4, seed=2) != chosen


def test_the_choice_never_changes():
    """Runs of all versions and machines must label the same images."""
    assert choose_labelled([f"image_{number}" for number in range(24)], 8) == {"image_9", "image_15", "image_19"}


def test_every_image_is_as_likely():
    counts = dict.fromkeys(ids := names(12), 0)
    for seed in range(1000):
        for name in choose_labelled(ids, 4, seed=seed):
            counts[name] += 1
    assert all(190 < count < 310 for count in counts.values())  # 250 +- 14


def test_known_parts_contain_and_are_contained():
    ids = names(64)
    known = {16: set(ids[40:44]), 4: set(ids[36:52])}
    parts = {d: choose_labelled(ids, d, known=known) for d in DENOMINATORS}
    assert parts[32] < known[16] == parts[16] < parts[8] < known[4] == parts[4] < parts[2]
    assert [len(part) for part in parts.values()] == [2, 4, 8, 16, 32]
