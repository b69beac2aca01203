import multiprocessing
import os
import signal
import time

import fresh
import numpy as np
import pytest
import torch
from data_trees import city_tree
from PIL import Image

from fpl_fast.trainer.data import pack_writer
from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.pack import PackStore, data_file, index_file, read_index
from fpl_fast.trainer.data.pack_writer import write_pack


@pytest.fixture
def tree(tmp_path):
    """A tree and its training images."""
    city_tree(tmp_path / "city", size=(16, 32))
    names = sorted(path.relative_to(tmp_path / "city").as_posix() for path in tmp_path.glob("city/images/*/*.png"))
    return tmp_path / "city", [("image", name) for name in names]


def assert_whole(pack, root, pictures):
    """The pack holds the pictures, without a byte between or behind them."""
    assert set(read_index(pack)) == set(pictures)
    store, files = PackStore(pack, root), FileStore(root)
    assert all(torch.equal(store.image(name), files.image(name)) for _, name in pictures)
    records = sorted(read_index(pack).values())
    assert [record.offset for record in records] == [0, *(record.end for record in records[:-1])]
    assert data_file(pack).stat().st_size == records[-1].end


def test_progress_and_repetition(tree, tmp_path):
    root, pictures = tree
    seen = []
    assert write_pack(tmp_path / "pack", FileStore(root), pictures, progress=lambda *counts: seen.append(counts)) == []
    assert seen == [(done, len(pictures)) for done in range(1, len(pictures) + 1)]
    assert_whole(tmp_path / "pack", root, pictures)
    before = data_file(tmp_path / "pack").read_bytes()
    never = {"progress": lambda *counts: pytest.fail("packed again")}
    assert write_pack(tmp_path / "pack", FileStore(root), pictures * 2, **never) == []
    assert data_file(tmp_path / "pack").read_bytes() == before


def test_more_pictures_are_added(tree, tmp_path):
    root, pictures = tree
    seen = []
    write_pack(tmp_path / "pack", FileStore(root), pictures[:5])
    write_pack(tmp_path / "pack", FileStore(root), pictures, progress=lambda *counts: seen.append(counts))
    assert seen[0] == (6, len(pictures))
    assert_whole(tmp_path / "pack", root, pictures)


def test_changed_files_are_packed_again(tree, tmp_path):
    root, pictures = tree
    write_pack(tmp_path / "pack", FileStore(root), pictures)
    name = pictures[3][1]
    pixels = fresh.rng().integers(256, size=(9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / name)
    write_pack(tmp_path / "pack", FileStore(root), pictures)
    assert torch.equal(PackStore(tmp_path / "pack", root).image(name), torch.from_numpy(pixels).permute(2, 0, 1))


def test_a_touched_file_takes_no_more_room(tree, tmp_path):
    root, pictures = tree
    pack = tmp_path / "pack"
    write_pack(pack, FileStore(root), pictures)
    size = data_file(pack).stat().st_size
    os.utime(root / pictures[0][1], (1, 1))
    for _ in range(2):  # the second call must not cut off what the first line, named last, does not reach
        write_pack(pack, FileStore(root), pictures)
        assert data_file(pack).stat().st_size == size
        assert_whole(pack, root, pictures)


@pytest.mark.parametrize("cut", ["none", "index", "data", "index and data", "header"])
def test_what_a_killed_writer_leaves_is_cut_off(tree, tmp_path, cut):
    root, pictures = tree
    pack = tmp_path / "pack"
    write_pack(pack, FileStore(root), pictures[:7])
    if "index" in cut:
        with index_file(pack).open("ab") as file:
            file.write(b'{"kind": "image", "name": "im')
    if "data" in cut:
        with data_file(pack).open("ab") as file:
            file.write(os.urandom(100))
    if cut == "header":
        index_file(pack).write_text('{"format": "fpl-f')
    else:
        assert len(read_index(pack)) == 7  # readable before it is repaired
    write_pack(pack, FileStore(root), pictures)
    assert_whole(pack, root, pictures)


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_what_a_shortened_file_has_lost_is_packed_anew(tree, tmp_path, kept):
    root, pictures = tree
    pack = tmp_path / "pack"
    write_pack(pack, FileStore(root), pictures)
    lost = read_index(pack)[pictures[kept]]
    os.truncate(data_file(pack), fresh.rng().integers(lost.offset, lost.end))
    seen = []
    write_pack(pack, FileStore(root), pictures, progress=lambda *counts: seen.append(counts))
    assert seen[0] == (kept + 1, len(pictures))  # the whole ones stay
    assert_whole(pack, root, pictures)


def test_sigkill(tree, tmp_path, monkeypatch):
    """A process of its own, killed again and again between two moments that nobody chose."""
    root, pictures = tree
    pack = tmp_path / "pack"
    monkeypatch.setattr(pack_writer, "_BYTES_PER_COMMIT", 1)  # a commit for each picture

    def progress(done, total):
        time.sleep(0.01)
        while done == total - 1:  # the kill comes before the end, however busy the machine is
            time.sleep(0.01)

    for kill in range(3):
        process = multiprocessing.get_context("fork").Process(
            target=write_pack, args=(pack, FileStore(root), pictures), kwargs={"progress": progress}
        )
        process.start()
        while not index_file(pack).is_file() or index_file(pack).read_bytes().count(b"\n") < 4 + 5 * kill:
            assert process.is_alive()
        time.sleep(fresh.rng().uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        store, packed = PackStore(pack, root), read_index(pack)
        assert 3 + 5 * kill <= len(packed) < len(pictures)
        assert all(torch.equal(store.image(name), FileStore(root).image(name)) for _, name in packed)
    seen = []
    write_pack(pack, FileStore(root), pictures, progress=lambda *counts: seen.append(counts))
    assert seen[0] == (len(packed) + 1, len(pictures))  # what was packed stays packed
    assert_whole(pack, root, pictures)


def test_bad_files_are_listed_and_the_others_packed(tree, tmp_path):
    root, pictures = tree
    (root / pictures[2][1]).unlink()
    (root / pictures[4][1]).write_text("hello")
    problems = write_pack(tmp_path / "pack", FileStore(root), [*pictures, ("label", pictures[0][1])])
    assert len(problems) == 3
    assert problems[0] == f"{root / pictures[2][1]}: the file must exist, but is missing"
    assert "the image must be readable" in problems[1]
    assert "a label must be an 8-bit" in problems[2]
    assert set(read_index(tmp_path / "pack")) == {p for p in pictures if p not in (pictures[2], pictures[4])}


def test_an_interrupted_call_keeps_what_it_has(tree, tmp_path):
    root, pictures = tree

    def interrupt(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pack(tmp_path / "pack", FileStore(root), pictures, progress=interrupt)
    assert len(read_index(tmp_path / "pack")) == 4
    write_pack(tmp_path / "pack", FileStore(root), pictures)
    assert_whole(tmp_path / "pack", root, pictures)


def test_one_writer_at_a_time(tree, tmp_path):
    root, pictures = tree
    with (
        pack_writer._Writer.open(tmp_path / "pack"),
        pytest.raises(ValueError, match="must be written by one process at a time, got a second one"),
    ):
        write_pack(tmp_path / "pack", FileStore(root), pictures)


def test_nothing_else_is_written_over(tree, tmp_path):
    root, pictures = tree
    for path in (root, root / pictures[0][1]):
        with pytest.raises(ValueError, match="must be a pack, a new or an empty folder, got something else"):
            write_pack(path, FileStore(root), pictures)


def test_decoding_does_not_run_far_ahead():
    started = []
    with pack_writer.ThreadPoolExecutor(2) as pool:
        results = pack_writer._map_ahead(pool, lambda item: started.append(item) or -item, range(50), 4)
        assert next(results) == 0
        time.sleep(0.05)
        assert len(started) <= 5
        assert list(results) == [-item for item in range(1, 50)]


@pytest.mark.parametrize("index", [b"", b"notes", b"notes\nmore", b'{"format": "other"}\nmore'])
def test_foreign_files_of_a_pack_s_names_are_kept(tree, tmp_path, index):
    root, pictures = tree
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "index.jsonl").write_bytes(index)
    (folder / "data.bin").write_bytes(b"years of work")
    with pytest.raises(ValueError, match=r"must be (a pack|the index of a pack)"):
        write_pack(folder, FileStore(root), pictures)
    assert ((folder / "index.jsonl").read_bytes(), (folder / "data.bin").read_bytes()) == (index, b"years of work")
