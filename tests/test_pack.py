import json
import pickle
import warnings
import zlib

import fresh
import numpy as np
import pytest
import torch
from data_trees import voc_tree
from PIL import Image

from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.pack import PackStore, data_file, index_file, read_index
from fpl_fast.trainer.data.pack_writer import write_pack


@pytest.fixture
def packed(tmp_path):
    """A tree with all its images and the labels of the validation images packed; root, pack, pictures."""
    root, pack = tmp_path / "voc", tmp_path / "pack"
    voc_tree(root)
    pictures = [("image", path.relative_to(root).as_posix()) for path in sorted(root.glob("*/image/*.jpg"))]
    pictures += [("label", path.relative_to(root).as_posix()) for path in sorted(root.glob("val/label/*.png"))]
    assert write_pack(pack, FileStore(root), pictures) == []
    return root, pack, pictures


def test_a_pack_holds_what_the_files_hold(packed):
    root, pack, pictures = packed
    files, store = FileStore(root), PackStore(pack, root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind, name in pictures:
            ours, theirs = getattr(store, kind)(name), getattr(files, kind)(name)
            assert ours.dtype == torch.uint8
            assert torch.equal(ours, theirs)
            ours.fill_(7)  # a sample may be written to; the pack stays as it is
            assert torch.equal(getattr(store, kind)(name), theirs)
    assert len({tuple(getattr(store, kind)(name).shape) for kind, name in pictures}) > 2  # sizes differ


def test_loader_processes_get_no_copy_of_the_data(packed):
    root, pack, pictures = packed
    store = PackStore(pack, root)
    before = store.image(pictures[0][1])
    assert len(pickle.dumps(store)) < data_file(pack).stat().st_size / 4
    assert torch.equal(pickle.loads(pickle.dumps(store)).image(pictures[0][1]), before)


def test_a_pack_does_without_the_files(packed):
    root, pack, pictures = packed
    before = [PackStore(pack, root).image(name) for kind, name in pictures if kind == "image"]
    for _, name in pictures:
        (root / name).unlink()
    store = PackStore(pack, root)
    after = [store.image(name) for kind, name in pictures if kind == "image"]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_damaged_picture_is_named(packed):
    root, pack, pictures = packed
    kind, name = pictures[fresh.rng().integers(len(pictures))]
    record = read_index(pack)[kind, name]
    with data_file(pack).open("r+b") as file:
        file.seek(record.offset + (record.end - record.offset) // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    store = PackStore(pack, root)
    with pytest.raises(ValueError, match=rf"{name}: the packed picture must have checksum {record.crc32:08x}, got"):
        getattr(store, kind)(name)
    for other in pictures:
        if other != (kind, name):
            getattr(store, other[0])(other[1])


def test_another_file_than_the_packed_one_is_named(packed):
    root, pack, pictures = packed
    with (root / pictures[0][1]).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=rf"{pictures[0][1]}: must be the file of \d+ bytes that was packed in "):
        PackStore(pack, root).image(pictures[0][1])


def forget_orientations(pack):
    """The pack of a writer that decoded every file as it is stored."""
    header, *lines = index_file(pack).read_text().splitlines()
    entries = [{key: value for key, value in json.loads(line).items() if key != "orientation"} for line in lines]
    index_file(pack).write_text("".join(f"{line}\n" for line in [header, *map(json.dumps, entries)]))


def turn(path):
    """Mark a file as upside down."""
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(path) as picture:
        picture.save(path, exif=exif)


def test_orientation_is_applied_and_remembered(packed):
    root, pack, pictures = packed
    turn(root / pictures[0][1])
    write_pack(pack, FileStore(root), pictures)
    expected = FileStore(root).read("image", pictures[0][1])
    found = PackStore(pack, root).read("image", pictures[0][1])
    assert (found.orientation, torch.equal(found.pixels, expected.pixels)) == (3, True)
    assert PackStore(pack, root).read("image", pictures[1][1]).orientation == 1


def test_packs_of_before_are_read_only_where_nothing_needed_turning(packed):
    root, pack, pictures = packed
    (_, turned), (_, absent), (_, upright), *_ = pictures
    turn(root / turned)
    with Image.open(root / turned) as picture:  # as the writer of before decoded it
        stored = np.array(picture.convert("RGB")).transpose(2, 0, 1)
    before = read_index(pack)["image", turned]
    with data_file(pack).open("r+b") as file:
        file.seek(before.offset)
        file.write(stored.tobytes())
    lines = index_file(pack).read_text().splitlines()
    entry = json.loads(lines[1])
    assert entry["name"] == turned
    status = (root / turned).stat()
    entry |= {"crc32": zlib.crc32(stored.tobytes()), "source": [status.st_size, status.st_mtime_ns]}
    index_file(pack).write_text("\n".join([lines[0], json.dumps(entry), *lines[2:], ""]))
    forget_orientations(pack)
    content = (root / absent).read_bytes()
    (root / absent).unlink()
    store = PackStore(pack, root)
    assert torch.equal(store.image(upright), FileStore(root).image(upright))
    for name, why in ((turned, "has one"), (absent, "is not here to tell")):
        with pytest.raises(
            ValueError, match=rf"{name}: must be packed with its EXIF orientation .* {why}: repeat fpl-f"
        ):
            store.image(name)

    (root / absent).write_bytes(content)
    size = data_file(pack).stat().st_size
    assert write_pack(pack, FileStore(root), pictures) == []
    assert data_file(pack).stat().st_size == size + stored.size  # the turned one alone
    store, files = PackStore(pack, root), FileStore(root)
    for kind, name in pictures:
        assert torch.equal(getattr(store, kind)(name), getattr(files, kind)(name))
    (root / absent).unlink()
    PackStore(pack, root).image(absent)


def test_what_must_be_there(packed):
    root, pack, pictures = packed
    store = PackStore(pack, root)
    labels = [name for kind, name in pictures if kind == "label"]
    store.require("label", labels, "val.txt")
    with pytest.raises(
        ValueError, match=r"the pack must hold all labels of a\.txt, got none of x\.png and 1 more \(fpl"
    ):
        store.require("label", [*labels, "x.png", "y.png"], "a.txt")
    with pytest.raises(ValueError, match=r"got none of x\.png \(fpl-fast data pack adds them\)"):
        store.require("image", ["x.png"], "a.txt")


def test_packs_that_are_none(packed, tmp_path):
    root, pack, _ = packed
    with pytest.raises(ValueError, match=r"nowhere: must be a pack that fpl-fast data pack wrote, got No such file"):
        PackStore(tmp_path / "nowhere", root)
    text = index_file(pack).read_text()
    version_0 = json.dumps({"format": "fpl-fast pack", "version": 0})
    for wrong in ("", "hello\n", f"{version_0}\n", "[1]\n", "[" * 9_000 + "\n"):
        index_file(pack).write_text(wrong)
        with pytest.raises(ValueError, match=r"index\.jsonl: must be the index of a pack of version 1"):
            PackStore(pack, root)
    line = json.loads(text.splitlines()[1])
    no_line = r"index\.jsonl: line \d+ must name a picture and its place in the pack, got"
    for wrong in ({"offset": "0"}, {"offset": -1}, {"shape": 3}, {"shape": [None]}, {"crc32": 0.5}, {"source": [1]},
                  {"kind": []}, {"name": 3}):  # fmt: skip
        index_file(pack).write_text(text + json.dumps(line | wrong) + "\n")
        with pytest.raises(ValueError, match=no_line):
            PackStore(pack, root)
    for wrong in (b"null", b"3", b"{}", b"{", b"\xff", b"[" * 9_000):
        index_file(pack).write_bytes(text.encode() + wrong + b"\n")
        with pytest.raises(ValueError, match=no_line):
            PackStore(pack, root)
    index_file(pack).write_text(text)
    size = data_file(pack).stat().st_size
    with data_file(pack).open("r+b") as file:
        file.truncate(size - 1)
    with pytest.raises(ValueError, match=rf"data\.bin: must hold the {size} bytes .*, got {size - 1}"):
        PackStore(pack, root)
