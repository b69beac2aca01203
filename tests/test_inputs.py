import dataclasses
import re

import numpy as np
import pytest
import torch
from data_trees import city_tree, voc_tree
from PIL import Image
from torch.utils._pytree import tree_leaves
from trainer_runs import STEPS, tiny_run

from fpl_fast.trainer.config import CityscapesData, FolderData, VocData
from fpl_fast.trainer.data.datasets import (
    build_split,
    build_train_datasets,
    build_val_dataset,
    check_files,
    class_table,
    read_splits,
)
from fpl_fast.trainer.data.donors import DonorQueue
from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.inputs import read_batches
from fpl_fast.trainer.data.pack_writer import write_pack
from fpl_fast.trainer.data.sample import index_palette
from fpl_fast.trainer.methods.overlap import find_overlap

CPU = torch.device("cpu")


def batches(config, num_views=2, **where):
    datasets = build_train_datasets(config.data, unlabelled=num_views > 0)
    return list(read_batches(config, datasets, num_unlabelled_views=num_views, device=CPU, **where))


def changed(config, **sections):
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **values) for name, values in sections.items()}
    )


def assert_equal(ours, theirs):
    """Batches, tensor by tensor."""
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert torch.equal(a, b)


def flat(batch):
    """All tensors of a batch but the images to paste from."""
    return [leaf for leaf in tree_leaves(batch._replace(paste=None)) if isinstance(leaf, torch.Tensor)]


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


def test_padding_of_labels(folder):
    config = dataclasses.replace(tiny_run(), data=folder)
    config = changed(config, augment={"crop": (64, 64), "scales": (1.0,), "pad_label": "zero"})
    x = batches(config)[0].labelled
    assert (x.label[~x.valid] == 0).all()


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


@pytest.fixture
def folder(tmp_path):
    """A small tree in the default layout of the folder recipe."""
    for part, names in {"train": "abcd", "val": "ef"}.items():
        for kind in ("images", "labels"):
            (tmp_path / kind / part).mkdir(parents=True)
        for name in names:
            rng = np.random.default_rng(ord(name))
            Image.fromarray(rng.integers(0, 256, (36, 52, 3), dtype=np.uint8)).save(
                tmp_path / "images" / part / f"{name}.jpg"
            )
            if name not in "cd":  # unlabelled images need no label files
                label = rng.integers(0, 4, (36, 52), dtype=np.uint8)
                Image.fromarray(label).save(tmp_path / "labels" / part / f"{name}.png")
    (tmp_path / "lists").mkdir()
    for name, entries in {"labelled": "ab", "unlabelled": "cd", "val": "ef"}.items():
        (tmp_path / "lists" / f"{name}.txt").write_text("\n".join(entries))
    return FolderData(root=str(tmp_path), num_classes=3, label_ignore=(3,), class_names=("x", "y", "z"))


def test_folder(folder):
    datasets, val = build_train_datasets(folder, unlabelled=True), build_val_dataset(folder)
    assert [len(part) for part in (*datasets, val)] == [2, 2, 2]
    assert val.class_names == ("x", "y", "z")
    assert set(datasets.labelled[0].label.unique().tolist()) == {0, 1, 2, 255}
    assert datasets.unlabelled[0].label is None
    counts = []
    check_files(folder, datasets, val, lambda done, total: counts.append((done, total)))
    assert counts == [(1, 2), (2, 2)] * 3
    batch = batches(dataclasses.replace(tiny_run(), data=folder))[0]
    assert set(batch.labelled.label.unique().tolist()) <= {0, 1, 2, 255}


def test_public_data_sets(tmp_path):
    voc_tree(tmp_path / "voc")
    city_tree(tmp_path / "city", official=True)
    for data, num_classes in (
        (VocData(root=str(tmp_path / "voc")), 21),
        (CityscapesData(root=str(tmp_path / "city")), 19),
    ):
        splits = read_splits(data, unlabelled=True)
        datasets, val = build_train_datasets(data, unlabelled=True), build_val_dataset(data)
        assert [len(part) for part in (*datasets, val)] == [len(split.pairs) for split in splits.values()] == [5, 28, 3]
        assert val.num_classes == num_classes
        check_files(data, datasets, val, lambda done, total: None)
        batch = batches(dataclasses.replace(tiny_run(), data=data))[0]
        assert set(batch.labelled.label.unique().tolist()) <= {*range(num_classes), 255}
    assert read_splits(data, unlabelled=False).keys() == {"labelled", "val"}
    assert read_splits(tiny_run().data, unlabelled=True) == {}


def test_packed_batches_are_those_of_the_files(tmp_path):
    voc_tree(tmp_path / "voc")
    files = VocData(root=str(tmp_path / "voc"), partition="1/4")
    splits = read_splits(files, unlabelled=True)
    pictures = [("image", pair.image) for split in splits.values() for pair in split.pairs]
    pictures += [("label", pair.label) for part in ("labelled", "val") for pair in splits[part].pairs]
    assert write_pack(tmp_path / "pack", FileStore(tmp_path / "voc"), pictures) == []
    packed = dataclasses.replace(files, packed=str(tmp_path / "pack"))
    for ours, theirs in zip(*(batches(dataclasses.replace(tiny_run(), data=d)) for d in (packed, files)), strict=True):
        assert_equal(ours, theirs)
    ours, theirs = (build_val_dataset(data) for data in (packed, files))
    check_files(packed, build_train_datasets(packed, unlabelled=True), ours, lambda done, total: None)
    for index in range(len(ours)):
        assert torch.equal(ours[index].image, theirs[index].image)
        assert torch.equal(ours[index].label, theirs[index].label)
    with pytest.raises(ValueError, match=r"pack: the pack must hold all labels of .*1-2\.txt, got none of train_aug/"):
        build_train_datasets(dataclasses.replace(packed, partition="1/2"), unlabelled=False)


def test_supervised_needs_no_unlabelled_list(folder, tmp_path):
    (tmp_path / "lists" / "unlabelled.txt").unlink()
    assert build_train_datasets(folder, unlabelled=False).unlabelled is None
    with pytest.raises(ValueError, match=r"unlabelled\.txt"):
        build_train_datasets(folder, unlabelled=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_goes_bad_is_one_line(folder, tmp_path, workers):
    config = changed(dataclasses.replace(tiny_run(), data=folder), train={"workers": workers})
    (tmp_path / "images" / "train" / "d.jpg").unlink()
    message = f"{tmp_path}/images/train/d.jpg: the file must exist, but is missing"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        batches(config)


def test_a_bad_file_is_named(folder, tmp_path):
    (tmp_path / "images" / "train" / "d.jpg").write_bytes(b"\xff\xd8 truncated")
    datasets = build_train_datasets(folder, unlabelled=True)
    with pytest.raises(ValueError, match=r"d\.jpg"):
        check_files(folder, datasets, build_val_dataset(folder), lambda done, total: None)


def paint(tmp_path, values):
    """Fill the labels of the named images with a value each."""
    for path in tmp_path.glob("labels/*/*.png"):
        if path.stem in values:
            Image.new("L", Image.open(path).size, values[path.stem]).save(path)


def check(data):
    check_files(data, build_train_datasets(data, unlabelled=True), build_val_dataset(data), lambda done, total: None)


@pytest.mark.parametrize("in_pack", [False, True])
@pytest.mark.parametrize("looked_at", [True, False])
@pytest.mark.parametrize(("part", "names"), [("labelled", "ab"), ("val", "ef")])
def test_a_part_without_labels_is_refused(folder, tmp_path, part, names, looked_at, in_pack):
    paint(tmp_path, dict.fromkeys(names, 3))
    data = dataclasses.replace(folder, check=looked_at)
    if in_pack:
        data = dataclasses.replace(data, packed=str(tmp_path / "pack"))
        pairs = [(part, pair) for part, split in read_splits(folder, unlabelled=True).items() for pair in split.pairs]
        pictures = [("image", pair.image) for _, pair in pairs]
        pictures += [("label", pair.label) for part, pair in pairs if part != "unlabelled"]
        assert write_pack(tmp_path / "pack", FileStore(tmp_path), pictures) == []
    message = (
        rf"^data\.{part} must name labels in which at least one pixel has a class, got the ignored values 3 in all 2$"
    )
    with pytest.raises(ValueError, match=message):
        check(data)
    paint(tmp_path, {names[0]: 255})
    if not in_pack:
        with pytest.raises(ValueError, match=r"got the ignored values 3, 255 in all 2$"):
            check(data)
        paint(tmp_path, {names[1]: 1})
        check(data)


def test_classes_without_pixels_are_warned_of(folder, tmp_path, caplog):
    paint(tmp_path, {"a": 0, "b": 2, "e": 1, "f": 3})
    check(folder)
    assert caplog.messages == [
        "warning: no labelled pixel of y",
        "warning: no validation pixel of x, z",
    ]
    caplog.clear()
    paint(tmp_path, {"a": 0, "b": 2, "e": 2, "f": 0})
    check(dataclasses.replace(folder, label_map={2: 1}, num_classes=2, class_names=()))
    assert caplog.messages == []


def test_masks_of_0_and_255_are_recognised(folder, tmp_path, caplog):
    data = dataclasses.replace(folder, num_classes=2, class_names=(), label_ignore=())
    paint(tmp_path, {"a": 0, "b": 255, "e": 255, "f": 255})
    advice = ": the labels hold no value but 0 and 255; if 255 is a class, --data.label_map '{255: 1}' says so"
    with pytest.raises(
        ValueError, match=rf"^data\.val must .* got the ignored values 255 in all 2{re.escape(advice)}$"
    ):
        check(data)
    assert caplog.messages == [f"warning: no labelled pixel of 1{advice}"]
    caplog.clear()
    paint(tmp_path, {"e": 0})
    check(dataclasses.replace(data, label_map={255: 1}))
    assert caplog.messages == []
    paint(tmp_path, {"a": 1})  # a third value: 255 may well be void
    check(dataclasses.replace(data, num_classes=3))
    assert caplog.messages[0] == "warning: no labelled pixel of 0, 2"


def test_parts_to_evaluate(folder, tmp_path):
    parts = {split: build_split(folder, split) for split in ("val", "train")}
    assert [parts["val"].name(0), parts["train"].name(0)] == ["e", "a"]
    (tmp_path / "some.txt").write_text("f")
    listed = build_split(folder, "some.txt")
    assert [listed.name(index) for index in range(len(listed))] == ["f"]
    with pytest.raises(ValueError, match=r"absent\.txt"):
        build_split(folder, "absent.txt")


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
