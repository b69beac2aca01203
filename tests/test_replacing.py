import errno
import os

import pytest

from fpl_fast.trainer.writing.replacing import replacing


def test_the_new_content_comes_at_once(tmp_path):
    path, (old, new) = tmp_path / "a.bin", (os.urandom(50), os.urandom(70))
    for content, before in ((old, None), (new, old)):
        with replacing(path) as file:
            file.write(content)
            file.flush()
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_keeps_the_previous_content(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing(path) as file:
        file.write(b"ne")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_an_error_of_the_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.bin'$"), replacing(tmp_path / "a.bin") as file:
        file.write(b"new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_a_killed_writer_left_is_written_over(tmp_path):
    (tmp_path / ".a.bin.tmp").write_bytes(os.urandom(100))
    with replacing(tmp_path / "a.bin") as file:
        file.write(b"new")
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]
