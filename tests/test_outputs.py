import os
from pathlib import Path

import pytest

from fpl_fast.trainer.writing.outputs import Outputs, WrittenFiles


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_command_replaces_what_it_wrote(tmp_path):
    for content in (os.urandom(20), os.urandom(30)):
        outputs = Outputs(tmp_path / "out", [Path("sub/a.png")], option="--out")
        outputs.write(Path("sub/a.png"), content)
        assert (tmp_path / "out/sub/a.png").read_bytes() == content
        assert tmp_path / "out/sub/a.png" in WrittenFiles(tmp_path / "out")


def spellings(tmp_path):
    (tmp_path / "other").mkdir()
    os.symlink(tmp_path, tmp_path / "other" / "link")
    return [tmp_path, tmp_path / "other" / "..", tmp_path / "other" / "link"]


@pytest.mark.parametrize("spelling", range(3))
@pytest.mark.parametrize("reads", [False, True])
def test_a_foreign_file_is_refused_before_the_first_write(tmp_path, spelling, reads):
    (tmp_path / "b.png").write_bytes(b"years of work")
    folder = spellings(tmp_path)[spelling]
    rule = "a file that is read" if reads else "what fpl-fast did not write"
    with pytest.raises(ValueError, match=rf"--out must not write over {rule}.*b\.png': choose another folder"):
        Outputs(folder, [Path("a.png"), Path("b.png")], reads=[tmp_path / "b.png"] if reads else [], option="--out")
    assert {path.name for path in tmp_path.iterdir()} == {"b.png", "other"}


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_to_a_foreign_file_is_refused(tmp_path, link):
    (tmp_path / "thesis.png").write_bytes(b"years of work")
    (tmp_path / "out").mkdir()
    link(tmp_path / "thesis.png", tmp_path / "out" / "a.png")
    with pytest.raises(ValueError, match="must not write over"):
        Outputs(tmp_path / "out", [Path("a.png")], option="--out")


def test_a_dangling_link_is_refused(tmp_path):
    os.symlink(tmp_path / "gone", tmp_path / "a.png")
    with pytest.raises(ValueError, match="must not write over"):
        Outputs(tmp_path, [Path("a.png")], option="--out")


def test_ours_stays_ours_only_as_long_as_it_is_unchanged(tmp_path):
    outputs = Outputs(tmp_path, [Path("a.png")], option="--out")
    outputs.write(Path("a.png"), b"predicted")
    (tmp_path / "a.png").write_bytes(b"corrected by hand")
    with pytest.raises(ValueError, match="what has changed since"):
        Outputs(tmp_path, [Path("a.png")], option="--out")


def test_ours_is_not_written_over_while_it_is_read(tmp_path):
    Outputs(tmp_path, [Path("a.png")], option="--out").write(Path("a.png"), b"predicted")
    os.link(tmp_path / "a.png", tmp_path / "same.png")
    with pytest.raises(ValueError, match="a file that is read"):
        Outputs(tmp_path, [Path("a.png")], reads=[tmp_path / "same.png"], option="--out")


def test_what_appears_meanwhile_is_refused(tmp_path):
    """A file that appears is refused, also on a file system that does not distinguish A.png and a.png."""
    outputs = Outputs(tmp_path, [Path("a.png")], option="--out")
    (tmp_path / "a.png").write_bytes(b"years of work")
    with pytest.raises(ValueError, match="must not write over"):
        outputs.write(Path("a.png"), b"predicted")
    assert contents(tmp_path) == {"a.png": b"years of work"}


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_kill_around_the_write_leaves_nothing_foreign(tmp_path, monkeypatch, at):
    """The record is written first: of a file that a killed command left, the next one knows that it is ours."""
    Outputs(tmp_path, [Path("a.png")], option="--out").write(Path("a.png"), b"old")
    replace = os.replace

    def killed(*paths):
        if at == "after":
            replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Outputs(tmp_path, [Path("a.png")], option="--out").write(Path("a.png"), b"new")
    monkeypatch.undo()
    Outputs(tmp_path, [Path("a.png")], option="--out").write(Path("a.png"), b"newest")
    assert (tmp_path / "a.png").read_bytes() == b"newest"


def test_the_folder_must_be_one(tmp_path):
    (tmp_path / "a.png").write_bytes(b"years of work")
    with pytest.raises(ValueError, match=r"--out must be a folder, got the file .*a\.png': choose another one"):
        Outputs(tmp_path / "a.png", [Path("b.png")], option="--out")


def test_a_way_through_missing_folders_leads_where_it_says(tmp_path):
    """Made on the way, they would lead the path to files that nobody had looked at."""
    mine = tmp_path / "mine" / "a.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    for folder in (tmp_path / "new" / ".." / "mine", tmp_path / "new" / "er" / ".." / ".." / "mine"):
        with pytest.raises(ValueError, match="must not write over what fpl-fast did not write"):
            Outputs(folder, [Path("a.png")], option="--out")
    assert mine.read_bytes() == b"mine" and not (tmp_path / "new").exists()


def test_a_linked_folder_inside_is_ours_again(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to("../elsewhere")
    for content in (b"first", b"second"):
        Outputs(tmp_path / "out", [Path("sub/a.png")], option="--out").write(Path("sub/a.png"), content)
    assert (tmp_path / "elsewhere" / "a.png").read_bytes() == b"second"


def test_a_record_cut_short_costs_no_other(tmp_path):
    record, contents = tmp_path / ".fpl-fast-written.jsonl", {"a.png": os.urandom(20), "b.png": os.urandom(20)}
    Outputs(tmp_path, [Path("a.png")], option="--out").write(Path("a.png"), contents["a.png"])
    whole = record.read_bytes()
    for end in (0, 1, len(whole) // 2, len(whole) - 1):
        record.write_bytes(whole + whole[:end])
        (tmp_path / "b.png").unlink(missing_ok=True)
        Outputs(tmp_path, [Path("b.png")], option="--out").write(Path("b.png"), contents["b.png"])
        assert all(tmp_path / name in WrittenFiles(tmp_path) for name in contents)


@pytest.mark.parametrize("wrong", [b"\xff", b"null", b'{"file": "a.png"}', b'{"file": [], "sha256": ""}'])
def test_a_damaged_record_is_named(tmp_path, wrong):
    (tmp_path / ".fpl-fast-written.jsonl").write_bytes(wrong + b"\n")
    with pytest.raises(ValueError, match=r"fpl-fast-written\.jsonl line 1 must be a JSON object with file and sha256"):
        WrittenFiles(tmp_path)
