import numpy as np
import pytest
import torch
from input_cases import assert_equal, batches, changed, flat
from trainer_runs import STEPS, tiny_run

from fpl_fast.trainer.config import CityscapesData, FolderData, VocData
from fpl_fast.trainer.data.datasets import build_train_datasets, build_val_dataset, class_table
from fpl_fast.trainer.data.donors import DonorQueue
from fpl_fast.trainer.data.sample import index_palette
from fpl_fast.trainer.methods.overlap import find_overlap


def test_what_a_batch_holds():
    config = tiny_run()
    (first, *_), steps = (made := batches(config)), len(made)
    assert steps == STEPS
    assert first.labelled.image.shape == (2, 3, 32, 32)
    assert first.labelled.image.dtype == torch.float32
    assert first.labelled.image.is_contiguous(memory_format=torch.channels_last)
    assert first.labelled.label.dtype == torch.int64
    assert (first.labelled.label[~first.labelled.valid] == 255).all()
    assert (first.labelled.image.permute(0, 2, 3, 1)[~first.labelled.valid] == 0).all()
    assert all(view.label is None for view in first.unlabelled)
    assert first.mix_mask.shape == (2, 32, 32)
    assert 0 < first.mix_mask.float().mean() < 1
    assert not torch.equal(made[0].mix_mask, made[1].mix_mask)
    assert not torch.equal(first.unlabelled[0].image, first.unlabelled[1].image)


@pytest.mark.parametrize("num_views", [0, 1, 2])
def test_number_of_views(num_views):
    batch = batches(tiny_run(), num_views)[0]
    assert len(batch.unlabelled) == num_views
    assert (batch.mix_mask is not None) == (num_views == 2)


KINDS = [("cps", 2), ("cac", 2), ("unimatch", 2), ("unimatch_v2", 1)]


@pytest.mark.parametrize(("name", "num_views"), KINDS)
def test_resumed_batches_are_the_same(name, num_views):
    config = tiny_run(name=name)
    for ours, theirs in zip(batches(config, num_views, start_step=2), batches(config, num_views)[2:], strict=True):
        assert_equal(ours, theirs)


@pytest.mark.parametrize(("name", "num_views"), KINDS)
def test_processes_share_the_batches_of_one(name, num_views):
    config = changed(tiny_run(name=name), train={"batch_labelled": 4, "batch_unlabelled": 6})
    alone = batches(config, num_views)
    shares = [batches(config, num_views, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(alone, *shares, strict=True):
        together = [torch.cat(pair) for pair in zip(*map(flat, parts), strict=True)]
        for ours, theirs in zip(together, flat(whole), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "num_views", "number"),
    [("fixmatch", 2, 1), ("corrmatch", 2, 1), ("unimatch", 2, 2), ("unimatch_v2", 1, 2)],
)
def test_strong_views_are_the_weak_crop_in_other_colours(name, num_views, number):
    batch = batches(tiny_run(name=name), num_views)[0]
    assert batch.mix_mask is None and len(batch.strong_masks) == number
    assert len(batch.unlabelled) == num_views
    for view in batch.unlabelled:
        assert [image.shape for image in view.strong] == [view.image.shape] * number
        assert all(not torch.equal(image, view.image) for image in view.strong)
        assert all(image.is_contiguous(memory_format=torch.channels_last) for image in view.strong)
        assert all((image.permute(0, 2, 3, 1)[~view.valid] == 0).all() for image in view.strong)
    plain = dict.fromkeys(("jitter_probability", "grey_probability", "blur_probability"), 0.0)
    for view in batches(tiny_run(name=name, mix_probability=1.0, **plain), num_views)[0].unlabelled:
        assert all(torch.equal(image, view.image) for image in view.strong)


def test_each_strong_view_has_boxes_of_its_own():
    made = batches(tiny_run(name="unimatch", mix_probability=1.0))
    assert all(mask.flatten(1).any(1).all() for batch in made for mask in batch.strong_masks)
    assert not any(torch.equal(*batch.strong_masks) for batch in made)
    none = batches(tiny_run(name="unimatch", mix_probability=0.0))
    assert not any(mask.any() for batch in none for mask in batch.strong_masks)


def test_geometry_of_unimatch():
    """Padding is black, at the right and at the bottom, and still outside the image."""
    geometry = {"geometry": "unimatch", "scale_range": (0.5, 1.0), "flip": 0.0, "crop": (64, 64)}
    config = changed(tiny_run(name="unimatch"), augment=geometry)
    for batch in batches(config):
        for view in (batch.labelled, *batch.unlabelled):
            rows, columns = view.valid.any(2), view.valid.any(1)
            assert torch.equal(view.valid, rows.unsqueeze(2) & columns.unsqueeze(1))
            assert (rows.int().diff() <= 0).all() and (columns.int().diff() <= 0).all()
            assert not view.valid.all((1, 2)).any()
            black = -torch.tensor(config.data.mean) / torch.tensor(config.data.std)
            padding = view.image.permute(0, 2, 3, 1)[~view.valid]
            torch.testing.assert_close(padding, black.expand_as(padding))
        assert (batch.labelled.label[~batch.labelled.valid] == 255).all()


def test_pairs_of_crops():
    """Both views show parts of the same images, at the places that they tell; there is nothing to mix."""
    plain = dict.fromkeys(("jitter_probability", "grey_probability", "blur_probability"), 0.0)
    config = tiny_run(name="cac", **plain)
    made = [*batches(config), *batches(changed(config, augment={"geometry": "cps", "scale_range": None}))]
    for batch in made:
        first, second = batch.unlabelled
        assert batch.mix_mask is None and batch.strong_masks == ()
        assert torch.equal(first.index, second.index)
        assert [view.place.offset.shape for view in batch.unlabelled] == [(2, 2)] * 2
        overlap = find_overlap(first, second, (4, 4))
        cells = [view.image.unfold(2, 8, 8).unfold(3, 8, 8) for view in batch.unlabelled]  # (N, 3, 4, 4, 8, 8)
        cells = [
            torch.where(view.place.flipped.view(-1, 1, 1, 1, 1, 1), x.flip(-1), x)
            .flatten(2, 3)
            .movedim(1, -1)
            .flatten(2)
            for view, x in zip(batch.unlabelled, cells, strict=True)
        ]
        assert torch.equal(cells[0][overlap.common], overlap.of_second(cells[1])[overlap.common])
        assert overlap.common.any()
    assert any(not torch.equal(*(view.image for view in batch.unlabelled)) for batch in made)


def test_geometry_of_cac():
    """Padding has the mean colour, at the right and at the bottom; long sides refer to one size for all images."""
    geometry = {"base_size": 40, "scale_range": (0.5, 1.0), "flip": 0.0, "crop": (64, 64)}
    config = changed(tiny_run(name="cac"), augment=geometry)
    for batch in batches(config):
        view = batch.labelled
        rows, columns = view.valid.any(2), view.valid.any(1)
        assert torch.equal(view.valid, rows.unsqueeze(2) & columns.unsqueeze(1))
        longest = torch.maximum(rows.sum(1), columns.sum(1))
        assert ((longest >= 20) & (longest <= 40)).all()
        padding = view.image.permute(0, 2, 3, 1)[~view.valid]
        torch.testing.assert_close(padding, torch.zeros_like(padding), rtol=0, atol=0.01)
        assert (view.label[~view.valid] == 255).all()


def test_labelled_images_in_random_colours():
    plain, coloured = (
        batches(changed(tiny_run(name="cac"), augment={"jitter": jitter}))[0] for jitter in (None, (0.4, 0.4, 0.4, 0.1))
    )
    assert torch.equal(plain.labelled.label, coloured.labelled.label)
    assert not torch.equal(plain.labelled.image, coloured.labelled.image)
    assert torch.equal(plain.unlabelled[0].image, coloured.unlabelled[0].image)


def test_the_same_partner_is_another_crop_in_a_new_order_each_epoch():
    """As in the loaders of UniMatch, which unlike the loaders of CPS are told the epoch."""
    config = changed(
        tiny_run(name="unimatch", partner="same"),
        data={"num_unlabelled": 8},
        augment={"crop": (32, 48), "scales": (1.0,), "flip": 0.0},
        train={"steps": 8},
    )
    made = batches(config)
    assert all(torch.equal(*(view.index for view in batch.unlabelled)) for batch in made)
    first, second = (torch.cat([b.unlabelled[0].index for b in part]) for part in (made[:4], made[4:]))
    assert first.sort().values.equal(second.sort().values) and not first.equal(second)


def test_donors_and_sources_to_paste():
    config = changed(tiny_run(name="ael", paste_probability=1.0), data={"num_labelled": 4, "num_unlabelled": 7})
    donors = torch.randint(7, (STEPS, 2, 2))
    made = batches(config, donors=DonorQueue(donors), paste=True)
    plain = batches(config)
    assert [batch.unlabelled[1].index.tolist() for batch in made] == donors[..., 0].tolist()
    assert [batch.unlabelled[1].wanted.tolist() for batch in made] == donors[..., 1].tolist()
    for ours, theirs in zip(made, plain, strict=True):
        assert_equal(ours._replace(unlabelled=ours.unlabelled[:1]), theirs._replace(unlabelled=theirs.unlabelled[:1]))
        assert ours.paste.label.shape == ours.labelled.label.shape
        assert (ours.paste.label != 255).any((1, 2)).all()
        assert theirs.paste is None
    assert len({index for batch in made for index in batch.paste.index.tolist()}) == 4
    resumed = batches(config, paste=True, start_step=2)
    for ours, theirs in zip(resumed, made[2:], strict=True):
        assert torch.equal(ours.paste.image, theirs.paste.image)
    none = batches(changed(config, method={"paste_probability": 0.0}), paste=True)
    assert all((batch.paste.label == 255).all() for batch in none)


def test_another_seed_is_another_order():
    ours, theirs = (batches(changed(tiny_run(), train={"seed": seed}))[0] for seed in (0, 1))
    assert not torch.equal(ours.labelled.image, theirs.labelled.image)
    assert not torch.equal(ours.mix_mask, theirs.mix_mask)


@pytest.mark.parametrize("partner", ["same", "different"])
def test_cutmix_partner(partner):
    """Without flips, scales and crops, two views of one image are equal: spec/cps.md section 4.1."""
    config = changed(
        tiny_run(partner=partner),
        data={"num_unlabelled": 24},
        augment={"crop": (32, 48), "scales": (1.0,), "flip": 0.0},
        train={"steps": 24},
    )
    made = batches(config)
    pairs = [pair for batch in made for pair in zip(*(view.image for view in batch.unlabelled), strict=True)]
    equal = [torch.equal(*pair) for pair in pairs]
    assert np.mean(equal) == (1 if partner == "same" else pytest.approx(1 / 24, abs=0.1))
    epochs = [torch.cat([b.unlabelled[0].image for b in part]) for part in (made[:12], made[12:])]
    assert torch.equal(*epochs) == (partner == "same")  # their samplers repeat the order of the first epoch
    assert all(len(epoch.flatten(1).unique(dim=0)) == 24 for epoch in epochs)


@pytest.mark.parametrize("kind", ["one view", "donors"])
def test_partner_means_nothing_without_two_random_views(kind):
    """Every epoch has an order of its own if there is no partner to repeat the order for."""
    config = changed(
        tiny_run(partner="same"),
        data={"num_unlabelled": 8},
        augment={"crop": (32, 48), "scales": (1.0,), "flip": 0.0},
        train={"steps": 16},
    )
    donors = DonorQueue(torch.randint(8, (16, 2, 2))) if kind == "donors" else None
    made = batches(config, 1 if donors is None else 2, donors=donors)
    epochs = [torch.stack([b.unlabelled[0].index for b in made[4 * i : 4 * i + 4]]) for i in range(4)]
    assert all(sorted(epoch.flatten().tolist()) == list(range(8)) for epoch in epochs)
    assert any(not torch.equal(epoch, epochs[0]) for epoch in epochs[1:])


def test_unlabelled_scenes_carry_no_labels():
    labelled, unlabelled = build_train_datasets(tiny_run().data, unlabelled=True)
    assert labelled[0].label is not None
    assert unlabelled[0].label is None
    assert unlabelled[0].label is None  # remembered


def test_scenes_of_the_parts_differ():
    data = tiny_run().data
    sets = [*build_train_datasets(data, unlabelled=True), build_val_dataset(data)]
    assert [len(part) for part in sets] == [data.num_labelled, data.num_unlabelled, data.num_val]
    images = [part[i].image.flatten() for part in sets for i in range(len(part))]
    assert len(torch.stack(images).unique(dim=0)) == len(images)


def test_classes_are_known_without_files():
    data = FolderData(root="nowhere", num_classes=3, class_names=("sky", "road", "car"))
    table = class_table(data)
    assert table.names == ("sky", "road", "car")
    assert table.palette == index_palette(3)
    assert class_table(FolderData(num_classes=4)).names == ("0", "1", "2", "3")
    assert class_table(VocData(root="nowhere")).names[20] == "tv/monitor"
    assert class_table(CityscapesData(root="nowhere")).palette[0] == (128, 64, 128)
    scenes = tiny_run().data
    assert class_table(scenes) == (build_val_dataset(scenes).class_names, build_val_dataset(scenes).palette)
