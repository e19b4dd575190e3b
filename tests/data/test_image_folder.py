"""Image folders: every mode and geometry of the decoder, the layouts, the messages, memory against disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.v2 import functional as tvf

from fashion_tl.data import image_folder, threads
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.file_list import FileList, files_of
from fashion_tl.data.files import SUFFIXES, ImageFile, UnreadableImageError, decode_image
from fashion_tl.data.folder_index import FileIndex, scan_folder
from fashion_tl.data.image_folder import ImageFiles, ImageFolder, fingerprint
from fashion_tl.data.images import EncodedImages, ImageSet, InMemoryImages
from fashion_tl.data.memory import memory_limit
from fashion_tl.errors import UserError

pytestmark = pytest.mark.filterwarnings("error")

RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (128, 128, 128)
IN_MEMORY, ON_DISK = True, False


def identity(batch: Any) -> Any:
    return batch


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(path: Path, image: Image.Image | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (6, 5), RED)).save(path)
    return path


def assert_colour(path: Path, expected: tuple[int, int, int], tolerance: int = 1) -> None:
    pixels = decode_image(path, 4, "stretch")
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 4, 4)
    assert pixels.is_contiguous()
    difference = (pixels.int() - torch.tensor(expected).view(3, 1, 1)).abs().max()
    assert difference <= tolerance, pixels[:, 0, 0]


def png_16(path: Path, level: tuple[int, ...], key: tuple[int, ...]) -> None:
    """Write 4 x 4 pixels of one level of 16 bits, grey or RGB, of which one level is transparent."""
    kind = 0 if len(level) == 1 else 2
    row = b"\0" + struct.pack(f">{4 * len(level)}H", *level * 4)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)),
        (b"tRNS", struct.pack(f">{len(key)}H", *key)),
        (b"IDAT", zlib.compress(row * 4)),
        (b"IEND", b""),
    ]
    told = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(told))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A divided folder: 4 + 3 training and 2 + 1 test images, all different, of different sizes."""
    counts = {"train/cat": 4, "train/dog": 3, "test/cat": 2, "test/dog": 1}
    for seed, (name, count) in enumerate(counts.items()):
        for number in range(count):
            save(tmp_path / "set" / name / f"{number}.png", noise(8 + number, 12, 10 * seed + number))
    return tmp_path / "set"


@pytest.fixture
def damaged(tree: Path) -> Path:
    """The same with three unreadable training images of cats, one of them truncated."""
    truncated = tree / "train/cat/0.png"
    save(truncated, noise(64, 64))
    truncated.write_bytes(truncated.read_bytes()[:6000])
    (tree / "train/cat/1.png").write_bytes(b"")
    (tree / "train/cat/2.png").write_text("a page of text, not an image")
    return tree


# The decoder: modes


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("rgb.png", Image.new("RGB", (6, 5), RED), RED),
        ("grey.png", Image.new("L", (6, 5), 128), GREY),
        ("bit.png", Image.new("1", (6, 5), 1), WHITE),
        ("rgba.png", Image.new("RGBA", (6, 5), (0, 0, 0, 127)), GREY),
        ("opaque.png", Image.new("RGBA", (6, 5), (*RED, 255)), RED),
        ("la.png", Image.new("LA", (6, 5), (0, 0)), WHITE),
        ("cmyk.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), (254, 0, 0)),
        ("cmyk.tif", Image.new("CMYK", (6, 5), (0, 255, 255, 0)), RED),
        ("lab.tif", Image.new("LAB", (6, 5), (255, 128, 128)), WHITE),
        ("ycbcr.jpg", Image.new("YCbCr", (16, 16), (128, 128, 128)), GREY),
        ("grey16.png", Image.fromarray(np.full((5, 6), 32768, np.uint16)), GREY),
        ("white16.png", Image.fromarray(np.full((5, 6), 65535, np.uint16)), WHITE),
        ("dark16.png", Image.fromarray(np.full((5, 6), 257, np.uint16)), (1, 1, 1)),
        ("grey16.tif", Image.fromarray(np.full((5, 6), 32768, np.uint16)), GREY),
        ("grey32.tif", Image.fromarray(np.full((5, 6), 32768, np.int32)), GREY),
        ("grey16.pgm", Image.fromarray(np.full((5, 6), 32768, np.int32)), GREY),
        ("palette.gif", Image.new("RGB", (6, 5), RED).convert("P"), RED),
        ("red.webp", Image.new("RGB", (16, 16), RED), RED),
        ("red.bmp", Image.new("RGB", (6, 5), RED), RED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_mode_becomes_rgb(tmp_path: Path, name: str, image: Image.Image, expected: tuple[int, int, int]) -> None:
    assert_colour(save(tmp_path / name, image), expected, tolerance=3 if name.endswith(("jpg", "webp")) else 1)


def tiff_16(path: Path, order: Literal["big", "little"], photometric: int, level: int) -> None:
    """Write 4 x 4 grey pixels of 16 bits; of photometric 0 the level 0 is white."""
    values = {256: 4, 257: 4, 258: 16, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 4, 279: 32}
    entries = b"".join(
        tag.to_bytes(2, order) + (4).to_bytes(2, order) + (1).to_bytes(4, order) + value.to_bytes(4, order)
        for tag, value in values.items()
    )
    path.write_bytes(
        (b"MM\0*" if order == "big" else b"II*\0")
        + (40).to_bytes(4, order)
        + level.to_bytes(2, order) * 16
        + len(values).to_bytes(2, order)
        + entries
        + bytes(4)
    )


def test_big_endian_16_bit(tmp_path: Path) -> None:
    # A big-endian TIFF opens in mode I;16B, for which Pillow has its own conversions.
    tiff_16(tmp_path / "big.tif", "big", 1, 32768)
    with Image.open(tmp_path / "big.tif") as image:
        assert image.mode == "I;16B"
    assert_colour(tmp_path / "big.tif", GREY)


def test_16_bit_tiff_of_which_level_0_is_white(tmp_path: Path) -> None:
    for label, level in (("cat", 0), ("dog", 4095)):
        (tmp_path / label).mkdir()
        tiff_16(tmp_path / label / "0.tif", "little", 0, level)
    assert_colour(tmp_path / "cat/0.tif", WHITE, 0)
    assert_colour(tmp_path / "dog/0.tif", (239, 239, 239), 0)
    assert ImageFolder(tmp_path, storage_size=8).load().remarks == ()  # 12 bits, but nothing is almost black


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])], ids=["index", "table"])
def test_transparent_palette_is_laid_on_white(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (6, 5), 0)
    image.putpalette([0, 0, 0, *RED])
    image.save(tmp_path / "clear.png", transparency=transparency)
    assert_colour(tmp_path / "clear.png", WHITE)
    image.paste(1, (0, 0, 6, 5))
    image.save(tmp_path / "red.png", transparency=transparency)
    assert_colour(tmp_path / "red.png", RED)


def test_transparent_colour_of_rgb_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGB", (6, 5), RED).save(tmp_path / "key.png", transparency=RED)
    assert_colour(tmp_path / "key.png", WHITE)


@pytest.mark.parametrize("key", [(0,), (3000,), (0, 0, 0), (3000, 60000, 100)], ids=str)
def test_transparent_level_of_16_bits_is_laid_on_white(tmp_path: Path, key: tuple[int, ...]) -> None:
    for name, level in (("clear", key), ("opaque", (32896,) * len(key))):
        png_16(tmp_path / f"{name}.png", level, key)
    assert_colour(tmp_path / "clear.png", WHITE, 0)
    assert_colour(tmp_path / "opaque.png", GREY, 0)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = noise(8, 8)
    for orientation, turned in {1: image, 6: image.transpose(Image.Transpose.ROTATE_270)}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / "turned.png", exif=exif)
        pixels = decode_image(tmp_path / "turned.png", 8, "crop")
        assert torch.equal(pixels, torch.from_numpy(np.array(turned)).permute(2, 0, 1))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in (RED, WHITE)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert_colour(tmp_path / "film.gif", RED)


# The decoder: geometry


@pytest.mark.parametrize(("height", "width", "size"), [(48, 64, 24), (64, 48, 24), (40, 40, 16), (10, 14, 20)])
def test_crop_equals_torchvision(tmp_path: Path, height: int, width: int, size: int) -> None:
    image = noise(height, width)
    expected = tvf.center_crop(tvf.resize(image, [size]), [size])
    pixels = decode_image(save(tmp_path / "a.png", image), size, "crop")
    difference = (pixels.int() - tvf.pil_to_tensor(expected).int()).abs().max()
    assert difference <= 1


def test_crop_of_odd_sides_is_centred(tmp_path: Path) -> None:
    image = Image.new("RGB", (101, 20), "black")
    image.paste(RED, (45, 0, 56, 20))
    pixels = decode_image(save(tmp_path / "a.png", image), 20, "crop")
    assert torch.equal(pixels, pixels.flip(2))
    assert pixels[0, 10, 10] == 255
    assert pixels[0, 10, 0] == 0


def test_stretch_equals_torchvision(tmp_path: Path) -> None:
    image = noise(48, 64)
    pixels = decode_image(save(tmp_path / "a.png", image), 24, "stretch")
    assert torch.equal(pixels, tvf.pil_to_tensor(tvf.resize(image, [24, 24])))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (10, 10), (3, 200), (200, 3)])
def test_pad_keeps_the_whole_image_and_its_aspect(tmp_path: Path, height: int, width: int) -> None:
    image, size = noise(height, width), 24
    pixels = decode_image(save(tmp_path / "a.png", image), size, "pad", 0.5)  # a share to crop has no say
    scaled = [max(1, round(side * size / max(height, width))) for side in (height, width)]
    expected = tvf.pil_to_tensor(tvf.resize(image, scaled))
    top, left = ((size - side) // 2 for side in scaled)
    inside = (slice(None), slice(top, top + scaled[0]), slice(left, left + scaled[1]))
    assert torch.equal(pixels[inside], expected)
    pixels[inside] = 0
    assert pixels.sum() == 0


def test_pad_of_a_line(tmp_path: Path) -> None:
    pixels = decode_image(save(tmp_path / "line.png", Image.new("RGB", (30000, 1), RED)), 4, "pad")
    assert pixels[0].sum(1).tolist() == [0, 4 * 255, 0, 0]


def test_narrow_image_does_not_grow(tmp_path: Path) -> None:
    # Scaled before the crop it would take 2 GB.
    assert_colour(save(tmp_path / "line.png", Image.new("RGB", (30000, 1), RED)), RED)
    assert decode_image(tmp_path / "line.png", 128, "crop").float().mean(dim=(1, 2)).tolist() == list(RED)


# The decoder: errors


def make_empty(path: Path) -> None:
    path.write_bytes(b"")


def make_text(path: Path) -> None:
    path.write_text("not an image")


def make_truncated(path: Path) -> None:
    noise(64, 64).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:6000])


def make_truncated_jpeg(path: Path) -> None:
    noise(64, 64).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:2000])


def make_nothing(path: Path) -> None:
    pass


def make_float(path: Path) -> None:
    Image.fromarray(np.full((5, 6), 0.5, np.float32)).save(path, "TIFF")


def make_beyond_16_bit(path: Path) -> None:
    Image.fromarray(np.full((5, 6), 70000, np.int32)).save(path, "TIFF")


def make_dds_of_an_unknown_format(path: Path) -> None:
    sizes = (124).to_bytes(4, "little") + b"\x07\x10\0\0" + (8).to_bytes(4, "little") * 2
    form = (32).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"ZZZZ"
    path.write_bytes(b"DDS " + sizes + b"\0" * 44 + form + b"\0" * 60)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_dds_of_an_unknown_format, "pixel format"),
        (make_empty, "the file is empty"),
        (make_text, "not an image"),
        (make_truncated, "Truncated"),
        (make_truncated_jpeg, "truncated"),
        (make_nothing, "No such file"),
        (make_float, "floating-point"),
        (make_beyond_16_bit, "outside 0 to 65535"),
    ],
)
def test_unreadable_file_is_named(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    path = tmp_path / "odd.png"
    make(path)
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(path, 8, "crop")
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "--data.source.skip_unreadable true" in str(caught.value)
    assert reason in caught.value.reason


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_png_file_that_ends_in_zeros_is_unreadable(tmp_path: Path, place: float) -> None:
    path, rows = tmp_path / "image.png", np.arange(1024).reshape(32, 32)
    waves = np.sin(rows / 3) * 60 + np.random.default_rng(0).normal(128, 20, (32, 32))
    Image.fromarray(waves.clip(0, 255).astype(np.uint8)).save(path)
    content = path.read_bytes()
    kept = 60 + int(place * (len(content) - 80))
    path.write_bytes(content[:kept] + bytes(len(content) - kept))
    with pytest.raises(UnreadableImageError, match=r"image\.png"):
        decode_image(path, 32, "crop")


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "bomb.png", noise(20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match=r"bomb\.png .*400 pixels.*skip_unreadable"):
        decode_image(path, 8, "crop")


@pytest.mark.parametrize(
    "error",
    [
        SyntaxError("broken PNG file"),
        EOFError("no more frames"),
        KeyError("ImageWidth"),
        RuntimeError("broken AVIF file"),
        AssertionError("broken palette of an ICNS file"),
    ],
)
def test_other_errors_of_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: Path) -> None:
        raise error

    (tmp_path / "a.png").touch()
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UnreadableImageError, match=r"a\.png cannot be read as an image: .*(broken|no more|ImageWidth)"):
        decode_image(tmp_path / "a.png", 8, "crop")


@pytest.fixture
def in_time() -> Iterator[None]:
    """End a test that waits for a pipe."""

    def give_up(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # its address must be short


@pytest.mark.usefixtures("in_time")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
@pytest.mark.parametrize("make", [make_pipe, make_link_to_a_device, make_socket])
def test_special_files_are_unreadable_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    for label in ("cat", "dog"):
        for number in range(4):
            save(tmp_path / "pets" / label / f"{number}.png", noise(12, 12, number))
    path = tmp_path / "pets/cat/x.png"
    make(path)
    with pytest.raises(UnreadableImageError, match=r"x\.png cannot be read as an image: not a regular file"):
        decode_image(path, 8, "crop")
    for in_memory in (IN_MEMORY, ON_DISK):
        with pytest.raises(UserError, match=r"x\.png: not a regular file"):
            load_folder(scan_folder(tmp_path / "pets").train, 8, "crop", 1.0, in_memory, False)
    data = ImageDataModule(ImageFolder(tmp_path / "pets", skip_unreadable=True), image_size=16)
    data.setup()
    assert data.describe()["skipped"] == [str(path)]


# The layouts


def test_divided_folder(tree: Path) -> None:
    index = scan_folder(tree)
    assert index.class_names == ("cat", "dog")
    assert [(Path(str(path)).relative_to(tree).as_posix(), label) for path, label in index.train] == [
        *((f"train/cat/{number}.png", 0) for number in range(4)),
        *((f"train/dog/{number}.png", 1) for number in range(3)),
    ]
    assert index.test is not None
    assert [(Path(str(path)).relative_to(tree).as_posix(), label) for path, label in index.test] == [
        ("test/cat/0.png", 0),
        ("test/cat/1.png", 0),
        ("test/dog/0.png", 1),
    ]


def test_one_folder_is_left_to_the_caller(tree: Path) -> None:
    index = scan_folder(tree / "train")
    assert index == FileIndex(("cat", "dog"), scan_folder(tree).train, None)


def test_no_file_is_opened(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", None)
    assert len(scan_folder(damaged).train) == 7


def test_what_counts_and_in_which_order(tmp_path: Path) -> None:
    counted = ["B.JPG", "a.png", "a/z.png", "a0.png", "deep/er/x.tiff", "é.png", "\U0001f600.png", "\uff5e.png"]
    not_counted = [".hidden.png", ".git/x.png", "deep/.cache/x.png", "notes.txt", "png", "x.npy"]
    for name in [*reversed(counted), *not_counted]:
        path = tmp_path / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for number, suffix in enumerate(SUFFIXES):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / f"{number}{suffix}").touch()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "README.md").touch()
    index = scan_folder(tmp_path)
    assert index.class_names == ("one", "two")
    names = [Path(str(path)).relative_to(tmp_path / "one").as_posix() for path, label in index.train if label == 0]
    assert names == sorted(counted, key=str.encode)
    assert sum(label == 1 for _, label in index.train) == len(SUFFIXES)


def test_files_of_other_endings_are_counted_and_told(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png", "cat/c.png", "dog/d.png"):
        save(tmp_path / name)
    for name in ("cat/e.HEIC", "dog/deep/f.heic", "dog/notes", "cat/.hidden.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert ImageFolder(tmp_path, storage_size=8).load().others == {".heic": 2, "no ending": 1}
    for name in ("cat/a.png", "cat/c.png"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"no images in .*cat\. There are other files \(2 .heic, 1 no ending\)\. Add"):
        scan_folder(tmp_path)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere/x.png")
    save(tmp_path / "beside/x.png")
    save(tmp_path / "root/a/0.png")
    (tmp_path / "root/a/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/b").symlink_to(tmp_path / "beside")
    root = tmp_path / "root"
    assert [(Path(str(path)).relative_to(root).as_posix(), label) for path, label in scan_folder(root).train] == [
        ("a/0.png", 0),
        ("a/more/x.png", 0),
        ("b/x.png", 1),
    ]


def test_a_folder_counts_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    """By the same name in whatever order the system lists it."""
    for name in ("a/0.png", "b/0.png", *(f"a/{one}/1.png" for one in "xyz")):
        save(tmp_path / "root" / name)
    save(tmp_path / "elsewhere/2.png")
    for one, other in ("xy", "yz", "zx"):  # one link each: a walk that follows it for ever ends at the system's limit
        (tmp_path / f"root/a/{one}/{other}").symlink_to(f"../{other}")
    for name in ("n", "m", "x/o"):
        (tmp_path / "root/a" / name).symlink_to(tmp_path / "elsewhere")
    files = scan_folder(tmp_path / "root").train.files
    names = [Path(str(path)).relative_to(tmp_path / "root").as_posix() for path in files]
    assert names == ["a/0.png", "a/m/2.png", "a/x/1.png", "a/y/1.png", "a/z/1.png", "b/0.png"]


@pytest.mark.parametrize(
    ("links", "told"),
    [
        ({"train/cat/more": "train/dog", "train/dog/more": "train/cat"}, ("train/cat", "train/dog/more", 2)),
        ({"train/dog/more": "test/dog"}, ("train/dog/more", "test/dog", 1)),
        ({"val": "test"}, ("test/cat", "val/cat", 2)),
    ],
    ids=["ring", "split", "twice"],
)
def test_a_folder_of_two_classes_or_splits_is_refused(
    tree: Path, links: dict[str, str], told: tuple[str, str, int]
) -> None:
    for name, target in links.items():
        (tree / name).symlink_to(tree / target)
    message = scan_error(tree)
    assert f"{tree / told[0]} and {tree / told[1]} are one folder, reached by links" in message
    assert f"Remove the links ({told[2]} such folders)." in message
    assert len(message.splitlines()) == 1


def test_home_is_expanded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree.parent))
    assert ImageFolder("~/set").index == scan_folder(tree)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        save(tmp_path / name / "0.png")
    assert scan_folder(tmp_path).class_names == ("bus", "train")


def scan_error(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        scan_folder(root)
    assert str(root) in str(caught.value)
    return str(caught.value)


def test_missing_root(tmp_path: Path) -> None:
    message = scan_error(tmp_path / "nowhere")
    assert "does not exist" in message
    assert "one subfolder of images per class" in message


def test_root_is_a_file(tmp_path: Path) -> None:
    assert "is not a folder" in scan_error(save(tmp_path / "a.png"))


def test_no_class_folders(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    message = scan_error(tmp_path)
    assert "no class folders" in message
    assert "one subfolder of images per class" in message


def test_one_class(tmp_path: Path) -> None:
    save(tmp_path / "cat/0.png")
    message = scan_error(tmp_path)
    assert "one class folder, 'cat'" in message
    assert "at least two" in message


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_validation_folder(tree: Path, name: str) -> None:
    for label in ("cat", "dog"):
        save(tree / name / label / "v.png", noise(9, 9))
    index = scan_folder(tree)
    assert index.val == [(tree / name / "cat/v.png", 0), (tree / name / "dog/v.png", 1)]
    assert list(index.parts) == ["train", "test", "val"]
    shutil.rmtree(tree / "test")
    assert scan_folder(tree) == FileIndex(index.class_names, index.train, None, index.val)


def test_images_of_a_validation_folder_validate(tree: Path) -> None:
    for number, label in enumerate(("cat", "dog")):
        save(tree / "val" / label / "v.png", noise(9, 9, 50 + number))
    data = ImageDataModule(ImageFolder(tree), image_size=8, num_workers=0)
    data.setup()
    assert data.describe()["sizes"] == {"train": 7, "val": 2, "test": 3}
    expected = torch.stack([decode_image(tree / "val" / label / "v.png", 8, "crop", 0.875) for label in ("cat", "dog")])
    assert torch.equal(torch.cat(list(data.in_order("val", 4))), expected)


def test_moving_an_image_from_train_to_validation_makes_other_data(tree: Path) -> None:
    for number, label in enumerate(("cat", "dog")):
        save(tree / "val" / label / "v.png", noise(9, 9, 50 + number))
    first = ImageFolder(tree, storage_size=8).load().fingerprint
    (tree / "train/cat/3.png").rename(tree / "val/cat/3.png")
    assert ImageFolder(tree, storage_size=8).load().fingerprint != first


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (("val", "valid"), "'val', 'valid'"),
        (("Valid",), "'Valid'"),
        (("Val", "val"), "'Val', 'val'"),
        (("training",), "'train', 'training'"),
        (("Test",), "'Test', 'test'"),
    ],
)
def test_a_second_folder_of_a_split(tree: Path, names: tuple[str, ...], wrong: str) -> None:
    for name in names:
        save(tree / name / "cat/0.png")
    message = scan_error(tree)
    assert "Folders of splits are 'train' and 'test', 'train' and 'val' (or 'validation', 'valid')" in message
    assert f"Rename, move or remove {wrong};" in message


@pytest.mark.parametrize("name", ["Test", "TEST", "testing", "tests"])
@pytest.mark.parametrize("beside", ["val", "bird"])
def test_a_test_folder_of_another_name_is_not_ignored(tree: Path, name: str, beside: str) -> None:
    (tree / "test").rename(tree / name)
    for label in ("cat", "dog"):
        save(tree / beside / label / "0.png")
    assert f"Rename, move or remove '{name}';" in scan_error(tree)


def test_a_validation_folder_without_training(tree: Path) -> None:
    (tree / "train").rename(tree / "val")
    assert "has 'test', 'val'. Folders of splits are 'train'" in scan_error(tree)
    (tree / "test").rename(tree / "dog")  # would be classes
    assert "has 'val'. Folders of splits are 'train'" in scan_error(tree)


def test_what_is_left_alone_beside_classes_and_splits_is_told(tree: Path) -> None:
    save(tree / "holdout/cat/0.png")
    for name in ("cover.png", "train/loose.png", "train/more.JPG", "train/notes.txt"):
        save(tree / name) if not name.endswith("txt") else (tree / name).touch()
    images = ImageFolder(tree, storage_size=8).load()
    assert list(images.remarks) == [f"left alone in {tree}: 'holdout'"]
    assert images.others == {".png beside class folders": 2, ".jpg beside class folders": 1}
    images = ImageFolder(tree / "train", storage_size=8).load()
    assert images.remarks == ()
    assert images.others == {".png beside class folders": 1, ".jpg beside class folders": 1}


def test_a_class_that_validation_lacks(tree: Path) -> None:
    save(tree / "val/cat/0.png")
    assert f"{tree / 'val'} has no folder for 'dog', which another split has" in scan_error(tree)


@pytest.mark.parametrize("names", [["train"], ["test"], ["Train", "Test"]])
def test_half_of_a_divided_folder(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        save(tmp_path / name / "cat/0.png")
    message = scan_error(tmp_path)
    assert "Folders of splits are 'train' and 'test'" in message
    assert str(tmp_path / names[0]) in message


def test_all_problems_are_told_together(tree: Path) -> None:
    for name in ("train/bird", "train/ape", "test/cow"):
        (tree / name).mkdir()
    save(tree / "test/fish/0.png")
    message = scan_error(tree)
    assert f"no images in {tree / 'train/ape'}, {tree / 'train/bird'}." in message
    assert f"no images in {tree / 'test/cow'}." in message
    assert f"{tree / 'train'} has no folder for 'cow', 'fish'" in message
    assert f"{tree / 'test'} has no folder for 'ape', 'bird'" in message
    assert ".jpg" in message


def test_folder_that_cannot_be_listed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "dog cannot be listed: Permission denied" in scan_error(tree)
    monkeypatch.setattr(os, "scandir", Mock(side_effect=TimeoutError("the share is gone")))
    assert f"{tree} cannot be listed: the share is gone" in scan_error(tree)


# Loading


def load_folder(
    entries: Iterable[tuple[ImageFile, int]],
    size: int,
    resize: str,
    crop: float,
    in_memory: bool,
    skip_unreadable: bool,
) -> tuple[ImageSet, list[Path]]:
    index = FileIndex(("cat", "dog"), files_of(list(entries)), None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_folder, "memory_limit", lambda: 2**40 if in_memory else 0)
        loaded = ImageFiles(index, size, resize, crop, skip_unreadable).load()
    return loaded.train, [Path(path) for path in loaded.skipped]


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_memory_and_disk_hold_the_same(tree: Path, resize: str) -> None:
    entries = scan_folder(tree).train
    memory, left_out = load_folder(entries, 8, resize, 1.0, IN_MEMORY, False)
    disk, also_left_out = load_folder(entries, 8, resize, 1.0, ON_DISK, False)
    assert isinstance(memory, InMemoryImages)
    assert isinstance(disk, EncodedImages)
    assert left_out == also_left_out == []
    assert len(memory) == len(disk) == 7
    assert memory.labels.tolist() == disk.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    order = [6, 0, 3, 3]
    for (one, one_label), (other, other_label) in [
        (memory.__getitems__(order), disk.__getitems__(order)),
        (memory[2], disk[2]),
        (memory[-1], disk[6]),
    ]:
        assert one.dtype == other.dtype == torch.uint8
        assert one_label.dtype == other_label.dtype == torch.int64
        assert torch.equal(one, other)
        assert torch.equal(one_label, other_label)
    assert torch.equal(memory[3][0], decode_image(entries[3][0], 8, resize))
    for dataset in (memory, disk):
        with pytest.raises(IndexError):
            dataset[7]


@pytest.mark.parametrize(("in_memory", "workers"), [(IN_MEMORY, 0), (ON_DISK, 0), (ON_DISK, 1)])
def test_data_loader_reads_batches_of_a_subset(tree: Path, in_memory: bool, workers: int) -> None:
    dataset, _ = load_folder(scan_folder(tree).train, 8, "crop", 1.0, in_memory, False)
    subset = Subset(dataset, [5, 1, 0, 6, 2])
    loader = DataLoader(subset, batch_size=2, collate_fn=identity, num_workers=workers)
    batches = list(loader)
    assert [labels.tolist() for _, labels in batches] == [[1, 0], [0, 1], [0]]
    assert [images.shape for images, _ in batches] == [(2, 3, 8, 8), (2, 3, 8, 8), (1, 3, 8, 8)]
    assert torch.equal(torch.cat([images for images, _ in batches]), dataset.__getitems__([5, 1, 0, 6, 2])[0])


def test_error_of_a_worker_keeps_its_type(damaged: Path) -> None:
    paths = [path for path, _ in scan_folder(damaged).train[:2]]
    dataset = EncodedImages(paths, torch.zeros(2, dtype=torch.int64), 8)
    batches = iter(DataLoader(dataset, batch_size=2, collate_fn=identity, num_workers=1))
    with pytest.raises(UnreadableImageError, match=r"0\.png cannot be read .*skip_unreadable"):
        next(batches)
    # Ends the worker: left to the garbage collector, an iterator that raised can wait 5 s for it.
    assert list(batches) == []


@pytest.mark.parametrize("in_memory", [IN_MEMORY, ON_DISK])
def test_skip_unreadable(damaged: Path, in_memory: bool) -> None:
    entries = scan_folder(damaged).train
    dataset, left_out = load_folder(entries, 8, "crop", 1.0, in_memory, True)
    assert left_out == [damaged / f"train/cat/{number}.png" for number in range(3)]
    assert dataset.labels.tolist() == [0, 1, 1, 1]
    expected = torch.stack([decode_image(path, 8, "crop") for path, _ in entries[3:]])
    assert torch.equal(dataset.__getitems__([0, 1, 2, 3])[0], expected)


def test_unreadable_files_stop_the_load(damaged: Path) -> None:
    entries = scan_folder(damaged).train
    with pytest.raises(UserError) as caught:
        load_folder(entries, 8, "crop", 1.0, IN_MEMORY, False)
    message = str(caught.value)
    assert "3 of 7 files" in message
    for number in range(3):
        assert str(damaged / f"train/cat/{number}.png") in message
    assert "`--data.source.skip_unreadable true`" in message
    # Only the header is looked at when the images stay on disk: the truncated file is met by the workers.
    with pytest.raises(UserError, match="2 of 7 files"):
        load_folder(entries, 8, "crop", 1.0, ON_DISK, False)


def test_ten_unreadable_files_are_named(tmp_path: Path) -> None:
    entries = [(tmp_path / f"{number:02}.png", number % 2) for number in range(13)]
    with pytest.raises(UserError) as caught:
        load_folder(entries, 8, "crop", 1.0, ON_DISK, False)
    assert "09.png" in str(caught.value)
    assert "10.png" not in str(caught.value)
    assert "(13 in all)" in str(caught.value)


@pytest.mark.parametrize("in_memory", [IN_MEMORY, ON_DISK])
def test_class_without_a_readable_image(damaged: Path, in_memory: bool) -> None:
    (damaged / "train/cat/3.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no file can be read as an image in .*train/cat, .*class would be lost"):
        load_folder(scan_folder(damaged).train, 8, "crop", 1.0, in_memory, True)


@pytest.mark.parametrize("terminal", [True, False])
def test_many_files_show_progress_and_keep_their_order(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    monkeypatch.setattr(threads, "_PROGRESS_FROM", 2)
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    dataset, _ = load_folder(scan_folder(tree).train, 8, "crop", 1.0, IN_MEMORY, False)
    assert dataset.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("reading images" in captured.err) == terminal
    assert bool(captured.err.strip()) == terminal  # Rich 14 ends what it does not show by a newline


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2)),
    ],
)
def test_in_memory_images_check_their_tensors(images: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be u?int"):
        InMemoryImages(images, labels)


def test_folder_images_check_their_labels() -> None:
    with pytest.raises(ValueError, match="must be int64"):
        EncodedImages([Path("a.png")], torch.zeros(2, dtype=torch.int64), 8)


def test_the_memory_of_a_container_decides_what_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("cat", "dog"):
        for number in range(4):
            save(tmp_path / "images" / label / f"{number}.png", noise(12, 12, number))
    proc, group = tmp_path / "proc", tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemAvailable:   64000000 kB\n")
    (proc / "self/cgroup").write_text("0::/\n")
    (proc / "self/mountinfo").write_text("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (group / "memory.current").write_text("1000\n")
    monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: memory_limit(tmp_path))

    def held(limit: int) -> type:
        (group / "memory.max").write_text(f"{limit}\n")
        data = ImageDataModule(ImageFolder(tmp_path / "images"), image_size=16)
        data.setup()
        return type(data.splits["train"].images)

    wanted = 2 * 8 * 3 * 16 * 16  # half of what is left may be taken
    assert held(1000 + wanted) is InMemoryImages
    assert held(1000 + wanted - 2) is EncodedImages


# The classes


def test_a_class_that_is_not_text(tmp_path: Path) -> None:
    for label in (b"caf\xe9", b"tea"):
        save(tmp_path / os.fsdecode(label) / "a.png")
    with pytest.raises(UserError, match=r"a class 'caf\\udce9'.* UTF-8 text.*rename it, or its folder"):
        ImageDataModule(ImageFolder(tmp_path), image_size=16)


@pytest.mark.parametrize("name", ["$\\frac{$", "<b>&\"'", "café", "日本", "-rf", "%s{}"])
def test_a_class_of_any_text(tmp_path: Path, name: str) -> None:
    for label in (name, "tea"):
        save(tmp_path / label / "a.png")
    assert set(ImageDataModule(ImageFolder(tmp_path), image_size=16).class_names) == {name, "tea"}


@pytest.mark.parametrize(
    ("counts", "lost"),
    [
        ({"cat": 9, "dog": 1}, "'dog' is left for val: a class needs at least 3 images"),
        ({"cat": 9, "dog": 2}, "'dog' is left for test: a class needs at least 3 images"),
        ({"cat": 9, "dog": 3}, None),
        ({"train/cat": 9, "train/dog": 1, "test/cat": 1, "test/dog": 1}, "'dog' is left for val: .* at least 2 images"),
        ({"train/cat": 9, "train/dog": 2, "test/cat": 1, "test/dog": 1}, None),
    ],
)
def test_a_class_with_too_few_images_to_divide(tmp_path: Path, counts: dict[str, int], lost: str | None) -> None:
    for label, count in counts.items():
        for number in range(count):
            save(tmp_path / label / f"{number}.png", noise(12, 12, number))
    for budget in (None, 4):
        data = ImageDataModule(ImageFolder(tmp_path), image_size=16, label_budget=budget)
        if lost is None:
            data.setup()
        else:
            with pytest.raises(UserError, match=f"no image of class {lost}.*Add images, or remove the class"):
                data.setup()


# The fingerprint


def files_fingerprint(entries: Iterable[tuple[Path, int]]) -> str:
    files = FileList.of(entries)
    digests = [np.frombuffer(hashlib.sha256(path.read_bytes()).digest(), dtype=np.uint8) for path in files.files]
    return fingerprint(files, np.stack(digests))


def every_entry(root: Path) -> list[tuple[Path, int]]:
    index = scan_folder(root)
    return [(Path(str(path)), label) for entries in index.parts.values() for path, label in entries]


def test_fingerprint_is_that_of_a_copy(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "deeper/copy")
    for path, _ in every_entry(tmp_path / "deeper/copy"):
        os.utime(path, (0, 0))
    assert files_fingerprint(every_entry(tree)) == files_fingerprint(every_entry(tmp_path / "deeper/copy"))
    assert len(files_fingerprint(every_entry(tree))) == 64


def test_fingerprint_changes(tree: Path) -> None:
    big = tree / "train/cat/0.png"
    big.write_bytes(bytes(20000))
    seen = [files_fingerprint(every_entry(tree))]
    for position in (0, 10000, 19999):
        content = bytearray(big.read_bytes())
        content[position] = 1
        big.write_bytes(content)
        seen.append(files_fingerprint(every_entry(tree)))
    big.write_bytes(big.read_bytes() + b"\1")
    seen.append(files_fingerprint(every_entry(tree)))
    big.rename(big.with_name("00.png"))
    seen.append(files_fingerprint(every_entry(tree)))
    (tree / "test/cat/1.png").unlink()
    seen.append(files_fingerprint(every_entry(tree)))
    seen.append(files_fingerprint([(path, 0) for path, _ in every_entry(tree)]))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    ("levels", "said"),
    [((100, 4095), "are 4095 of 65535 at most: as 8 bits they are almost black (16 of 255)"), ((4095, 4400), None)],
)
def test_16_bit_files_of_12_bits_are_told(tmp_path: Path, levels: tuple[int, int], said: str | None) -> None:
    for label, level in zip(("cat", "dog"), levels, strict=True):
        save(tmp_path / label / "0.png", noise(12, 12, 0))
        Image.fromarray(np.full((12, 12), level, np.uint16)).save(tmp_path / label / "1.png")
    remarks = ImageFolder(tmp_path, storage_size=8).load().remarks
    assert remarks == () if said is None else said in remarks[0]


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".tif"])
def test_one_pixel_in_the_middle_of_an_image_makes_other_data(tmp_path: Path, suffix: str) -> None:
    for label in ("cat", "dog"):
        for number in range(4):
            save(tmp_path / label / f"{number}{suffix}", noise(96, 80, number))

    def seen() -> Any:
        data = ImageDataModule(ImageFolder(tmp_path), image_size=16)
        data.setup()
        return data.describe()["fingerprint"]

    first, path = seen(), tmp_path / "dog" / f"2{suffix}"
    size = path.stat().st_size
    with Image.open(path) as image:
        image.load()
        image.putpixel((40, 48), tuple(255 - value for value in image.getpixel((40, 48))))  # type: ignore[union-attr]
        image.save(path)
    assert path.stat().st_size == size
    assert seen() != first


def test_a_file_that_is_skipped_needs_no_fingerprint(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for number in range(4):
            save(tmp_path / label / f"{number}.png", noise(12, 12, number))
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = ImageDataModule(ImageFolder(tmp_path, skip_unreadable=True), image_size=16)
    data.setup()
    assert data.describe()["skipped"] == [str(tmp_path / "cat" / "gone.png")]
    (tmp_path / "cat" / "gone.png").unlink()
    without = ImageDataModule(ImageFolder(tmp_path), image_size=16)
    without.setup()
    assert data.describe()["fingerprint"] == without.describe()["fingerprint"]
