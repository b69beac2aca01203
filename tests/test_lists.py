import hashlib

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
    ],
    ids=["id", "crlf", "mark", "tab", "space", "suffixes", "paths with spaces", "ids with spaces", "a space before 1"],
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
    ],
)
def test_bad_lists(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path / "list.txt")


def test_missing_and_binary_lists(tmp_path):
    with pytest.raises(ValueError, match=r"list\.txt: the list file must be a readable text file, got .*No such file"):
        read_list(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ValueError, match=r"list\.txt: the list file must be a readable text file"):
        read_list(tmp_path / "list.txt")


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
