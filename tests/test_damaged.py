"""``data.skip_damaged``: training past images that cannot be decoded, and stopping at them without it."""

import dataclasses
import logging
import os
import signal

import fresh
import numpy as np
import pytest
from data_trees import voc_tree
from PIL import Image
from test_loop import assert_same_state, metrics
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.config import VocData
from fpl_fast.trainer.data.damaged import SkipDamaged
from fpl_fast.trainer.data.datasets import build_train_datasets
from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.one_line import in_one_line
from fpl_fast.trainer.data.pack_writer import write_pack
from fpl_fast.trainer.data.stream import SampleStream, make_loader
from fpl_fast.trainer.data.transforms import Augmentation
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.folder import RunFolder

KINDS = ("image", "label")
SAID = "meanwhile the next readable image of its list takes its place"


def damage(file):
    """Cut a file short, or write noise into it."""
    content, rng = file.read_bytes(), fresh.rng()
    half = len(content) // 2
    file.write_bytes(content[:half] if rng.random() < 0.5 else rng.bytes(len(content)))


@pytest.fixture
def data(tmp_path):
    voc_tree(tmp_path / "data", partitions=(4,))
    return VocData(root=str(tmp_path / "data"), partition="1/4", skip_damaged=True)


def config_of(data, workers=0):
    config = tiny_run()
    return dataclasses.replace(config, data=data, train=dataclasses.replace(config.train, workers=workers))


def files(data, part):
    """Images and labels of a part, in the order of its list."""
    dataset = getattr(build_train_datasets(data, unlabelled=True), part)
    return [[dataset.store.root / name for name in pair] for pair in dataset.pairs]


@pytest.mark.parametrize("kind", [0, 1], ids=KINDS)
def test_the_next_readable_pair_takes_the_place(data, kind):
    pairs = files(data, "labelled")
    for place in (0, 1, len(pairs) - 1):
        damage(pairs[place][kind])
    dataset = build_train_datasets(data, unlabelled=False).labelled
    skipping = SkipDamaged(dataset)
    assert len(skipping) == len(dataset)
    for index in range(len(dataset)):
        replaced = index in (0, 1, len(dataset) - 1)
        ours, theirs = skipping[index], dataset[2 if replaced else index]
        assert ours.replaced is replaced
        assert ours.image.equal(theirs.image) and ours.label.equal(theirs.label)


def test_only_damage_is_skipped(data):
    """Not a label that breaks a rule, nor a missing file."""
    (_, label), (image, _), *_ = files(data, "labelled")
    size = Image.open(label).size
    Image.fromarray(np.full(size[::-1], 77, dtype=np.uint8)).save(label)
    image.unlink()
    skipping = SkipDamaged(build_train_datasets(data, unlabelled=False).labelled)
    with pytest.raises(ValueError, match="labels must be below num_classes"):
        _ = skipping[0]
    with pytest.raises(ValueError, match="must exist, but is missing"):
        _ = skipping[1]


def test_every_image_damaged_is_an_error(data, tmp_path):
    for image, _ in files(data, "labelled"):
        damage(image)
    with pytest.raises(ValueError, match=r"images of its list are damaged\)$"):
        _ = SkipDamaged(build_train_datasets(data, unlabelled=False).labelled)[0]
    with pytest.raises(ValueError, match=r"the image must be readable.*more bad files"):
        train(config_of(data), RunFolder(tmp_path / "run"), Quiet())


def test_validation_images_are_never_skipped(data, tmp_path):
    damage(next((tmp_path / "data/val/image").iterdir()))
    with pytest.raises(ValueError, match="the image must be readable"):
        train(config_of(data), RunFolder(tmp_path / "run"), Quiet())


def test_a_damaged_picture_of_a_pack_is_skipped(data, tmp_path):
    pack = tmp_path / "pack"
    pairs = build_train_datasets(data, unlabelled=False).labelled.pairs
    write_pack(pack, FileStore(tmp_path / "data"), [item for pair in pairs for item in zip(KINDS, pair, strict=True)])
    with (pack / "data.bin").open("r+b") as file:
        first = file.read(1)
        file.seek(0)
        file.write(bytes([first[0] ^ 1]))
    packed = dataclasses.replace(data, packed=str(pack))
    skipping = SkipDamaged(build_train_datasets(packed, unlabelled=False).labelled)
    assert [skipping[index].replaced for index in range(3)] == [True, False, False]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_error_of_a_loader_names_the_file_alone(data, workers):
    for image, _ in files(data, "unlabelled"):
        damage(image)
    stream = SampleStream(build_train_datasets(data, unlabelled=True).unlabelled, Augmentation((32, 32)))
    with pytest.raises(ValueError, match=rf"^{data.root}/train_aug/image/\S+: the image must be readable, got"):
        next(in_one_line(make_loader(stream, 1, num_steps=1, num_workers=workers)))


@pytest.mark.parametrize("check", [True, False])
def test_a_run_goes_past_damage_in_the_same_way_however_it_is_read(data, tmp_path, caplog, check):
    """With any number of loaders, and across a stop; every damaged file is told of once, and the rest counted."""
    data = dataclasses.replace(data, check=check)
    hurt = [files(data, "labelled")[3][0], *(image for image, _ in files(data, "unlabelled")[::2])]
    for image in hurt:
        damage(image)
    straight, others = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "others")
    with caplog.at_level(logging.WARNING):
        train(config_of(data), straight, Quiet())
    told = [record.message for record in caplog.records if SAID in record.message]
    assert len(told) == len(set(told)) > 0 and all(any(str(image) in line for image in hurt) for line in told)
    assert ("files of data.unlabelled, which data.skip_damaged skips, are damaged" in caplog.text) is check
    stop = Quiet(lambda step: step == 3 and os.kill(os.getpid(), signal.SIGTERM))
    train(config_of(data, workers=1), others, stop)
    train(config_of(data, workers=2), others, Quiet(), resume=True)
    assert_same_state(others.last, straight.last)
    assert metrics(others) == metrics(straight)
    counts = [record["replaced_images"] for record in metrics(straight) if record["split"] == "train"]
    assert len(counts) == 3 and 0 < sum(counts) <= 3 * 6


def test_without_it_a_run_stops_and_goes_on_once_the_file_is_mended(data, tmp_path):
    data = dataclasses.replace(data, skip_damaged=False)
    straight, folder = RunFolder(tmp_path / "straight"), RunFolder(tmp_path / "run")
    train(config_of(data), straight, Quiet())
    whole = {image: image.read_bytes() for image, _ in files(data, "unlabelled")}

    def hurt(step):
        if step == 3:
            for image, content in whole.items():
                image.write_bytes(content[: len(content) // 2])

    with pytest.raises(ValueError, match=r"\.jpg: the image must be readable, got .*: replace the file$") as error:
        train(config_of(data), folder, Quiet(hurt))
    assert "\n" not in str(error.value)
    for image, content in whole.items():
        image.write_bytes(content)
    train(config_of(data), folder, Quiet(), resume=True)
    assert_same_state(folder.last, straight.last)
    assert metrics(folder) == metrics(straight)
    assert all("replaced_images" not in record for record in metrics(folder))
