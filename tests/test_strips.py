"""The strips of the kernel that upsamples: they fill the device, cover every image and keep within the buffer."""

import random
from types import SimpleNamespace

import pytest
import torch

from fpl_fast.kernels.capacity import Capacity, capacity
from fpl_fast.kernels.configs import MAX_GRID_Z, Strips, choose_strips, choose_upsampled_config, program_slots

BUFFER = 64 << 20
MULTIPROCESSORS = {"A100": 108, "H100": 132}


def plan(num_classes, low, high, images, multiprocessors):
    """Strips, programs of a full launch, slots, and launches of square images."""
    config = choose_upsampled_config(num_classes, lanes=32)
    blocks = -(-high // config.block)
    slots = program_slots(num_classes, config.num_warps, multiprocessors)
    strips = choose_strips(images, low, blocks, 4 * num_classes * high, BUFFER, slots)
    return strips, blocks * -(-low // strips.cells) * strips.images, slots, -(-images // strips.images)


@pytest.mark.parametrize("device", MULTIPROCESSORS)
@pytest.mark.parametrize(
    ("num_classes", "low", "high", "images"),
    [(19, 200, 800, 16), (19, 200, 800, 8), (21, 128, 512, 8), (19, 256, 1024, 2)],
)
def test_launches_fill_the_device(device, num_classes, low, high, images):
    """Crops of the tables: the useful work is nine tenths of what all waves could do."""
    strips, programs, slots, launches = plan(num_classes, low, high, images, MULTIPROCESSORS[device])
    waves = -(-programs // slots)
    blocks = -(-high // choose_upsampled_config(num_classes, lanes=32).block)
    assert programs / (waves * slots) >= 0.94
    assert images * blocks * low >= 0.88 * launches * waves * strips.cells * slots


def test_plans_worked_out_by_hand():
    assert plan(19, 200, 800, 16, 132) == (Strips(20, 4), 25 * 10 * 4, 132 * 8, 4)  # a wave of 20.25 cell rows each
    assert plan(19, 200, 800, 16, 108) == (Strips(12, 4), 25 * 17 * 4, 108 * 8, 4)  # two waves of 12.25
    assert plan(19, 32, 128, 1, 132) == (Strips(1, 1), 4 * 32, 132 * 8, 1)  # fewer programs than slots: all at once


def test_any_problem():
    draw = random.Random(torch.initial_seed())
    for _ in range(100):
        images, cells, blocks = draw.randint(1, 40), draw.randint(1, 300), draw.randint(1, 60)
        row_bytes, slots = 4 * draw.randint(2, 30) * 32 * blocks, draw.choice([1, 8, 864, 1056])
        buffer = draw.choice([0, 1, BUFFER])
        strips = choose_strips(images, cells, blocks, row_bytes, buffer, slots)
        assert 1 <= strips.cells <= cells and 1 <= strips.images <= min(images, MAX_GRID_Z)
        image_bytes = -(-cells // strips.cells) * (strips.cells + 1) * row_bytes
        assert not buffer or strips.images == 1 or strips.images * image_bytes <= buffer
        assert duration(strips, images, cells, blocks, slots) <= duration(
            Strips(cells, 1), images, cells, blocks, slots
        )


def duration(strips, images, cells, blocks, slots):
    """Cell rows that all waves take one after the other, the rows that strips share counted as a quarter."""
    launches = [min(strips.images, images - first) for first in range(0, images, strips.images)]
    waves = sum(-(-blocks * -(-cells // strips.cells) * number // slots) for number in launches)
    return waves * (strips.cells + 0.25)


def test_more_images_than_a_grid_takes():
    assert choose_strips(3 * MAX_GRID_Z, 2, 1, 8, 0, 1056).images <= MAX_GRID_Z


@pytest.mark.parametrize(("num_classes", "warps"), [(5, 20), (11, 11), (19, 8), (21, 8)])
def test_registers_decide_the_slots(num_classes, warps):
    assert program_slots(num_classes, 1, 132) == 132 * warps


def test_wide_programs_have_a_slot_each():
    assert program_slots(150, 8, 132) == 132 and program_slots(1000, 16, 132) == 132


@pytest.mark.parametrize("num_classes", [2, 19, 21, 40, 150, 300, 1000])
@pytest.mark.parametrize("lanes", [32, 64])
def test_a_thread_has_one_number_of_a_group(num_classes, lanes):
    config = choose_upsampled_config(num_classes, lanes)
    assert config.block * config.group == lanes * config.num_warps
    assert config.group * 32 >= num_classes


def test_the_capacity_of_a_device(monkeypatch):
    """A GPU says its own; the interpreter's is small."""
    properties = SimpleNamespace(multi_processor_count=110, warp_size=64)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert capacity.__wrapped__(torch.device("cuda", 1)) == Capacity(multiprocessors=110, lanes=64)
    assert capacity(torch.device("cpu")) == Capacity(multiprocessors=1, lanes=32)
