import struct

import fresh
import numpy as np
import pytest
import torch
from PIL import Image

from fpl_fast.trainer.data.files import FileStore, picture_size
from fpl_fast.trainer.data.sample import index_palette
from fpl_fast.trainer.data.store import DamagedPictureError


@pytest.fixture
def label(tmp_path):
    """Indices of VOC with void, 8-bit, to be stored in one way or another."""
    indices = fresh.rng().integers(21, size=(9, 14), dtype=np.uint8)
    indices[0] = 255
    return indices


def coloured(indices):
    picture = Image.fromarray(indices)
    picture.putpalette([value for color in index_palette(256) for value in color])
    return picture


def test_palette_and_grey_labels_hold_the_same_indices(tmp_path, label):
    Image.fromarray(label).save(tmp_path / "grey.png")
    coloured(label).save(tmp_path / "palette.png")
    coloured(label % 16).save(tmp_path / "four_bits.png", bits=4)
    store = FileStore(tmp_path)
    assert Image.open(tmp_path / "palette.png").mode == "P"
    for name, expected in (("grey", label), ("palette", label), ("four_bits", label % 16)):
        read = store.label(f"{name}.png")
        assert read.dtype == torch.uint8
        assert torch.equal(read, torch.from_numpy(expected))


def test_grey_of_four_bits_would_be_stretched(tmp_path, label):
    """Pillow reads index 1 of such a file as 17."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\x12")) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(png)
    with pytest.raises(ValueError, match=r"x\.png: a label must be an 8-bit single-channel or palette PNG"):
        FileStore(tmp_path).label("x.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "1", "I;16"])
def test_colour_coded_labels_are_named(tmp_path, label, mode):
    picture = Image.fromarray(label.astype(np.uint16)) if mode == "I;16" else coloured(label).convert(mode)
    picture.save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: a label must be an 8-bit .* of class indices, got PNG of .* mode"):
        FileStore(tmp_path).label("x.png")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_any_8_bit_image_becomes_rgb(tmp_path, mode):
    picture = Image.fromarray(fresh.rng().integers(256, size=(9, 14, 3), dtype=np.uint8)).convert(mode)
    picture.save(tmp_path / "x.tif")
    image = FileStore(tmp_path).image("x.tif")
    assert image.is_contiguous()
    assert torch.equal(image, torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))


def test_messages_name_the_file(tmp_path):
    store = FileStore(tmp_path)
    assert store.where("a/b.png") == str(tmp_path / "a/b.png")
    with pytest.raises(ValueError, match=r"a/b\.png: the file must exist, but is missing"):
        store.image("a/b.png")
    (tmp_path / "c.png").write_text("hello")
    with pytest.raises(ValueError, match=r"c\.png: the image must be readable, got cannot identify"):
        store.label("c.png")


# What a camera that was held so has stored, made from the upright picture.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright.swapaxes(0, 1)[::-1],
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],
}


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp", "x.jpg"])
def test_images_are_turned_upright(tmp_path, orientation, name):
    colours = fresh.rng().choice([0, 90, 255], size=(2, 3, 3))
    upright = colours.repeat(16, 0).repeat(16, 1).astype(np.uint8)
    options = {"quality": 95, "subsampling": 0} if name == "x.jpg" else {"lossless": True} if name == "x.webp" else {}
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(tmp_path / name, exif=oriented(orientation), **options)
    picture = FileStore(tmp_path).read("image", name)
    assert picture.orientation == orientation
    assert picture.pixels.shape == (3, 32, 48)
    difference = picture.pixels.permute(1, 2, 0).int() - torch.from_numpy(upright).int()
    assert difference.abs().max() <= (20 if name == "x.jpg" else 0)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["grey", "palette"])
def test_labels_are_turned_upright_without_a_change_of_indices(tmp_path, label, orientation, kind):
    stored = np.ascontiguousarray(STORED[orientation](label))
    picture = Image.fromarray(stored) if kind == "grey" else coloured(stored)
    picture.save(tmp_path / "x.png", exif=oriented(orientation))
    assert torch.equal(FileStore(tmp_path).label("x.png"), torch.from_numpy(label))


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.jpg"])
@pytest.mark.parametrize("exif", [b"Exif\0\0junkjunk", b"Exif\0\0", oriented(0).tobytes(), oriented(9).tobytes()])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, name, exif):
    Image.new("RGB", (6, 4)).save(tmp_path / name, exif=exif)
    picture = FileStore(tmp_path).read("image", name)
    assert (picture.pixels.shape, picture.orientation) == ((3, 4, 6), 1)


def test_no_memory_names_the_file(tmp_path, monkeypatch):
    Image.new("RGB", (6, 4)).save(tmp_path / "x.png")

    def decode(picture):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", decode)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(ValueError, match=r"x\.png: the image must fit in memory, got no room: lower train\.workers"):
        FileStore(tmp_path).image("x.png")


@pytest.mark.parametrize("read", ["image", "label", "size"])
def test_every_error_of_a_decoder_is_damage(tmp_path, monkeypatch, read):
    """Pillow's own among them: RuntimeError of AVIF, NotImplementedError of DDS, whose pixel format is 4 bytes."""
    Image.new("RGB", (6, 4)).save(tmp_path / "x.dds")
    content = bytearray((tmp_path / "x.dds").read_bytes())
    content[80:84] = bytes(4)
    (tmp_path / "x.dds").write_bytes(content)
    Image.new("L", (6, 4)).save(tmp_path / "x.png")

    def damaged(name):
        with pytest.raises(DamagedPictureError, match=rf"^.*{name}: the image must be readable, got .+: replace the"):
            picture_size(tmp_path / name) if read == "size" else FileStore(tmp_path).read(read, name)

    damaged("x.dds")
    for error in (RuntimeError, NotImplementedError, ValueError, IndexError, KeyError, struct.error, ZeroDivisionError):
        for message in ("", "failed to decode"):

            def decode(picture, error=error, message=message):
                raise error(message)

            with monkeypatch.context() as patch:
                patch.setattr("PIL.ImageFile.ImageFile.load", decode)
                patch.setattr("PIL.Image.Image.size" if read == "size" else "PIL.Image.Image.load", property(decode))
                damaged("x.png")


def test_a_dead_loader_is_no_damage(tmp_path, monkeypatch):
    Image.new("RGB", (6, 4)).save(tmp_path / "x.png")

    def decode(picture):
        raise RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed.")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(RuntimeError, match="is killed by signal"):
        FileStore(tmp_path).image("x.png")
