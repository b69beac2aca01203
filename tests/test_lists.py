import hashlib
from pathlib import Path

import pytest

from fpl_fast.trainer.data.lists import Pair, Split, fill_templates, read_list


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a\nb", [("a", "a"), ("b", "b")]),  # no final newline
        (b"a\r\nb\r\n\r\n", [("a", "a"), ("b", "b")]),  # Windows
        (b"\xef\xbb\xbfa\n \nb\n", [("a", "a"), ("b", "b")]),  # a byte-order mark and a blank line
        (b"/i/a.png\t/l/a.png\n/i/b.png\t/l/b.png\n", [("i/a.png", "l/a.png"), ("i/b.png", "l/b.png")]),
        (b"i/a.png l/a.png\r\ni/b.png l/b.png", [("i/a.png", "l/a.png"), ("i/b.png", "l/b.png")]),
        (b"a.png b.png\n", [("a.png", "b.png")]),
        (b"/i/a 1.png\t/l/a 1.png\n", [("i/a 1.png", "l/a 1.png")]),  # spaces in paths need the TAB
        (b"my photo\nmy other photo\n", [("my photo", "my photo"), ("my other photo", "my other photo")]),
        (b"photo 1.jpg\n", [("photo 1.jpg", "photo 1.jpg")]),
        ("a\r\n\u00fc\r\n".encode("utf-16"), [("a", "a"), ("\u00fc", "\u00fc")]),  # as PowerShell writes text
        (b"\xfe\xff\0a\0\n", [("a", "a")]),
        (b"# mine\na\n#b\n  # c\n/#d\n", [("a", "a"), ("#d", "#d")]),
        ("a\u2028b\nc\x0bd\n".encode(), [("a\u2028b", "a\u2028b"), ("c\x0bd", "c\x0bd")]),
        (b"a\na\n", [("a", "a"), ("a", "a")]),
        (b"x [1] (2).v2\n", [("x [1] (2).v2", "x [1] (2).v2")]),
    ],
    ids=[
        "id",
        "crlf",
        "mark",
        "tab",
        "space",
        "suffixes",
        "paths with spaces",
        "ids with spaces",
        "a space before 1",
        "utf-16",
        "utf-16, big end first",
        "comments",
        "rare line ends",
        "twice",
        "brackets",
    ],
)
def test_formats(tmp_path, text, expected):
    (tmp_path / "list.txt").write_bytes(text)
    assert read_list(tmp_path / "list.txt") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.txt: the list must name at least one image, got 0"),
        ("\r\n \n", "list.txt: the list must name at least one image, got 0"),
        ("a\ni/b l/b w/b\n", "list.txt: line 2 must hold an id, or an image and a label, got 'i/b l/b w/b'"),
        ("a\tb\tc", "list.txt: line 1 must hold"),
        ("a\t\tb", "list.txt: line 1 must hold"),
        ("/ /x", "list.txt: line 1 must hold"),
        ("# a\n\n", "list.txt: the list must name at least one image, got 0: write one a line"),
        ("a\n../../x\n", r"line 2 must stay below data\.root, got '\.\./\.\./x': choose a data\.root above all files"),
        ("i/../a.png\tl/a.png", r"line 1 must stay below data\.root, got 'i/\.\./a\.png'"),
        ("i/a.png\t/l/../../a.png", r"line 1 must stay below data\.root"),
        (r"C:\data\a.png", r"line 1 must be a path below data\.root, written with /, got 'C:"),
    ],
)
def test_bad_lists(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path / "list.txt")


def test_absolute_paths_are_told_from_those_that_begin_with_a_slash(tmp_path):
    image = tmp_path / "root" / "images" / "a.png"
    image.parent.mkdir(parents=True)
    image.write_text("")
    (tmp_path / "list.txt").write_text(f"{image}\n")
    message = (
        rf"list\.txt: line 1 must be a path below data\.root, got the absolute '{image}': leave out what comes before"
    )
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path / "list.txt", tmp_path / "root")
    (tmp_path / "list.txt").write_text("/images/a.png\n")
    assert read_list(tmp_path / "list.txt", tmp_path / "root") == [("images/a.png", "images/a.png")]
    (tmp_path / "list.txt").write_text(f"{image}\n")  # the root of the disk as the root of the data set
    assert read_list(tmp_path / "list.txt", Path("/")) == [(str(image)[1:], str(image)[1:])]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00\xd8", "must be UTF-8 text, got byte 0x00 at 2: save it as UTF-8"),
        (b"a\nsch\xf6n\n", "must be UTF-8 text, got byte 0xf6 at 5: save it as UTF-8"),
        (b"a\0\n\0", "must be UTF-8 text, got zero bytes: save it as UTF-8"),
    ],
)
def test_lists_in_other_encodings(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"list\.txt: the list file {message}$"):
        read_list(tmp_path / "list.txt")


def test_missing_lists(tmp_path):
    with pytest.raises(ValueError, match=r"list\.txt: the list file must exist, but is missing$"):
        read_list(tmp_path / "list.txt")
    with pytest.raises(ValueError, match=r"but is missing; look there$"):
        read_list(tmp_path / "list.txt", where_missing="; look there")
    with pytest.raises(ValueError, match=r"the list file must be a readable text file, got Is a directory$"):
        read_list(tmp_path)


def test_templates():
    assert fill_templates([Pair("a", "b")], "i/{}.jpg", "l/{}.png") == [("i/a.jpg", "l/b.png")]
    with pytest.raises(ValueError, match=r"images must contain '{}' once, got 'a\.png'"):
        fill_templates([], "a.png", "{}")
    with pytest.raises(ValueError, match=r"labels must contain '{}' once, got '{}/{}\.png'"):
        fill_templates([], "{}", "{}/{}.png")


def test_digest_is_that_of_the_written_list(tmp_path):
    split = Split((Pair("i/a.png", "l/a.png"), Pair("i/b.png", "l/b.png")), "list.txt")
    (tmp_path / "list.txt").write_text(split.to_text())
    assert [pair.image for pair in read_list(tmp_path / "list.txt")] == ["i/a.png", "i/b.png"]
    assert split.sha256 == hashlib.sha256((tmp_path / "list.txt").read_bytes()).hexdigest()
    assert split.sha256 != Split(split.pairs[::-1], "list.txt").sha256
