from collections import Counter

import pytest
import torch

from fpl_fast.trainer.data.donors import Donor, DonorQueue
from fpl_fast.trainer.data.sample import Sample
from fpl_fast.trainer.data.stream import SampleStream, make_loader
from fpl_fast.trainer.data.transforms import Augmentation


class Numbered:
    """Images of noise around their index."""

    num_classes, ignore_index, class_names, palette = 2, 255, ("a", "b"), ((0, 0, 0), (1, 1, 1))

    def __init__(self, length, labelled=True):
        self.length, self.labelled = length, labelled

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 14, 19), dtype=torch.uint8, generator=generator)
        return Sample(image, torch.full((14, 19), index, dtype=torch.uint8) if self.labelled else None)


def stream(length=5, labelled=True, **options):
    return SampleStream(Numbered(length, labelled), Augmentation((8, 9)), **options)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])), key


def epoch(s, number):
    return [s.index_at(number * s.epoch_length + place) for place in range(s.epoch_length)]


def test_an_epoch_repeats_a_short_set_and_fills_with_distinct_entries():
    counts = Counter(epoch(stream(5, epoch_length=13), 0))
    assert sorted(counts.values()) == [2, 2, 3, 3, 3]


def test_an_epoch_of_a_long_set_is_its_first_entries():
    s = stream(9, epoch_length=4)
    assert sorted(epoch(s, 0)) == sorted(epoch(s, 3)) == [0, 1, 2, 3]


def test_an_epoch_is_one_pass_by_default():
    assert sorted(epoch(stream(7), 2)) == list(range(7))


def test_reshuffle():
    fixed, fresh = stream(40, reshuffle=False), stream(40)
    assert epoch(fixed, 0) == epoch(fixed, 1) == epoch(fresh, 0)
    assert epoch(fresh, 0) != epoch(fresh, 1)
    assert epoch(fresh, 0) != list(range(40))


def test_the_fill_is_drawn_anew_each_epoch():
    s = stream(30, epoch_length=32)
    assert len({tuple(sorted(epoch(s, e))) for e in range(5)}) > 1


def test_literal_partner_is_another_view_of_the_same_image():
    first = stream(20, reshuffle=False, order_seed=3, augment_seed=1)
    second = stream(20, reshuffle=False, order_seed=3, augment_seed=2)
    pairs = [(first[p], second[p]) for p in range(45)]
    assert all(a["index"] == b["index"] for a, b in pairs)
    assert sum(torch.equal(a["image"], b["image"]) for a, b in pairs) < 5


def test_intended_partner_is_another_image():
    first, second = stream(50, order_seed=3), stream(50, order_seed=4)
    assert sum(first.index_at(p) == second.index_at(p) for p in range(50)) < 10


def test_a_position_is_always_the_same_but_epochs_are_augmented_afresh():
    s = stream(6, reshuffle=False)
    assert_same(s[17], stream(6, reshuffle=False)[17])
    assert s[5]["index"] == s[11]["index"] == s[17]["index"]
    assert not (torch.equal(s[5]["image"], s[11]["image"]) and torch.equal(s[11]["image"], s[17]["image"]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_and_workers_change_nothing(num_workers):
    s = stream(5)
    whole = list(make_loader(s, 3, num_steps=6))
    tail = list(make_loader(s, 3, start_step=4, num_steps=2, num_workers=num_workers))
    assert len(whole) == 6
    assert len(tail) == 2
    for a, b in zip(whole[4:], tail, strict=True):
        assert_same(a, b)


def test_an_image_may_be_named():
    """A named image gets the augmentation of its position, independently of the stream's own order."""
    s = stream(6)
    own = s.index_at(17)
    assert_same(s[17, Donor(own, 3)], s[17] | {"wanted": 3})
    assert s[17, Donor((own + 1) % 6, 3)]["index"] == (own + 1) % 6


def test_donors_choose_the_images():
    donors = torch.randint(6, (3, 2, 2))
    for num_workers in (0, 1):
        loader = make_loader(
            stream(6), 2, start_step=5, num_steps=3, num_workers=num_workers, donors=DonorQueue(donors)
        )
        read = [torch.stack([batch["index"], batch["wanted"]], dim=-1) for batch in loader]
        assert torch.equal(torch.stack(read), donors)


def test_donors_are_shared_out_among_the_processes_of_a_loader():
    """A single process prepares for all, as in a warm-up."""
    donors = torch.randint(6, (1, 4, 2))
    for rank, share in enumerate(donors[0].chunk(2)):
        queue = DonorQueue(donors)
        (batch,) = make_loader(stream(6), 2, num_steps=1, rank=rank, world_size=2, donors=queue)
        assert torch.equal(torch.stack([batch["index"], batch["wanted"]], dim=-1), share)


def test_blank_positions_hold_nothing():
    s = stream(5, blank=0.3)
    items = [s[p] for p in range(400)]
    blank = [item for item in items if not item["valid"].any()]
    assert len(blank) / 400 == pytest.approx(0.3, abs=0.12)  # five standard deviations
    assert all((item["label"] == 255).all() and not item["image"].any() for item in blank)
    assert all(item["label"].shape == (8, 9) and item["image"].shape == (3, 8, 9) for item in items)
    assert_same(s[7], stream(5, blank=0.3)[7])


def test_ranks_share_out_the_batch_of_one_process():
    s = stream(7)
    whole = list(make_loader(s, 6, num_steps=3))
    parts = [list(make_loader(s, 2, num_steps=3, rank=rank, world_size=3)) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert_same(batch, {key: torch.cat([part[step][key] for part in parts]) for key in batch})


def test_batches():
    batch = next(iter(make_loader(stream(5), 4, num_steps=1)))
    assert batch["image"].shape == (4, 3, 8, 9)
    assert batch["image"].dtype == batch["label"].dtype == torch.uint8
    assert batch["valid"].dtype == torch.bool
    assert torch.equal(batch["label"][batch["valid"]], batch["index"].repeat_interleave(batch["valid"].sum((1, 2))))
    assert "label" not in next(iter(make_loader(stream(5, labelled=False), 4, num_steps=1)))


def test_no_steps():
    assert list(make_loader(stream(), 2, num_steps=0)) == []


def test_wrong_arguments():
    with pytest.raises(ValueError, match="dataset must hold at least one image, got 0"):
        stream(0)
    with pytest.raises(ValueError, match="epoch_length must be at least 1, got 0"):
        stream(epoch_length=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        make_loader(stream(), 0, num_steps=1)
    with pytest.raises(ValueError, match="got -1 and 3"):
        make_loader(stream(), 1, start_step=-1, num_steps=3)
    with pytest.raises(ValueError, match=r"rank must be in \[0, world_size = 2\), got 2"):
        make_loader(stream(), 1, num_steps=1, rank=2, world_size=2)
