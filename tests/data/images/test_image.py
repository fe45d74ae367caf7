"""Images of every kind come out right, and everything that is wrong with one has its own short reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from mmft.data.images.image import BadImage, ImageReader
from mmft.errors import UserError

Encode = Callable[..., bytes]
SIZE = 16


@pytest.fixture(scope="module")
def read() -> ImageReader:
    return ImageReader(SIZE, "squash", "white", 1_000_000)


def colour(pixels: torch.Tensor) -> list[int]:
    """The middle pixel."""
    assert pixels.shape == (3, SIZE, SIZE)
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    return pixels[:, SIZE // 2, SIZE // 2].tolist()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_reads_as_bytes_and_as_file(
    read: ImageReader, encode: Encode, tmp_path: Path, format: str
) -> None:
    data = encode(Image.new("RGB", (30, 20), (200, 100, 50)), format)
    (tmp_path / "image").write_bytes(data)
    from_file = read(str(tmp_path / "image"))
    assert torch.equal(from_file, read(data))
    assert colour(from_file) == pytest.approx([200, 100, 50], abs=3)


MODES: list[tuple[str, Any, str, list[int]]] = [
    ("1", 1, "PNG", [255, 255, 255]),
    ("L", 77, "PNG", [77, 77, 77]),
    ("LA", (77, 255), "PNG", [77, 77, 77]),
    ("LA", (77, 0), "PNG", [255, 255, 255]),
    ("RGBA", (0, 0, 0, 0), "PNG", [255, 255, 255]),
    ("RGBA", (200, 0, 0, 51), "PNG", [244, 204, 204]),
    ("RGBA", (0, 0, 0, 0), "WEBP", [255, 255, 255]),
    ("RGBA", (10, 20, 30, 255), "TIFF", [10, 20, 30]),
    ("CMYK", (0, 255, 255, 0), "JPEG", [254, 0, 0]),
    ("CMYK", (0, 255, 255, 0), "TIFF", [255, 0, 0]),
    ("YCbCr", (128, 128, 128), "JPEG", [128, 128, 128]),
    ("I;16", 32896, "PNG", [128, 128, 128]),
    ("I;16", 65535, "PNG", [255, 255, 255]),
    ("I;16", 257, "TIFF", [1, 1, 1]),
    ("I", 32896, "TIFF", [128, 128, 128]),
    ("I", 200, "TIFF", [200, 200, 200]),
    ("F", 0.5, "TIFF", [128, 128, 128]),
    ("F", 100.0, "TIFF", [100, 100, 100]),
]


@pytest.mark.parametrize(("mode", "value", "format", "expected"), MODES)
def test_every_mode_comes_out_as_rgb(
    read: ImageReader, encode: Encode, mode: str, value: Any, format: str, expected: list[int]
) -> None:
    assert colour(read(encode(Image.new(mode, (20, 20), value), format))) == pytest.approx(expected, abs=2)


def test_sixteen_bits_are_scaled_not_clipped(read: ImageReader, encode: Encode) -> None:
    ramp = np.linspace(0, 65535, SIZE, dtype=np.uint16)
    pixels = read(encode(Image.fromarray(np.tile(ramp, (SIZE, 1))), "PNG"))
    assert pixels[0, 0].tolist() == pytest.approx((ramp / 257).tolist(), abs=1)


def test_a_range_of_its_own_is_stretched(read: ImageReader, encode: Encode) -> None:
    values = np.array([[-5.0, 5.0, np.nan, np.inf]] * 4, dtype=np.float32).repeat(4, axis=0).repeat(4, axis=1)
    pixels = read(encode(Image.fromarray(values), "TIFF"))
    assert (pixels[0, 0, 0].item(), pixels[0, 0, 5].item()) == pytest.approx((0, 255), abs=12)
    flat = read(encode(Image.fromarray(np.full((4, 4), -3, dtype=np.float32)), "TIFF"))
    assert flat.float().std() == 0


def test_palettes_with_and_without_transparency(read: ImageReader, encode: Encode) -> None:
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert colour(read(encode(palette, "PNG"))) == [10, 200, 30]
    assert colour(read(encode(palette, "PNG", transparency=1))) == [255, 255, 255]
    assert colour(read(encode(palette, "GIF", transparency=1))) == [255, 255, 255]
    red = ImageReader(SIZE, "squash", "#ff0000", 1000)
    assert colour(red(encode(Image.new("RGBA", (20, 20)), "PNG"))) == [255, 0, 0]
    grey = encode(Image.new("L", (20, 20), 9), "PNG", transparency=9)
    assert colour(red(grey)) == [255, 0, 0]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(read: ImageReader, encode: Encode, format: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert colour(read(data)) == [250, 0, 0]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(encode: Encode, format: str, orientation: int) -> None:
    from PIL import ImageOps

    array = np.zeros((24, 24, 3), dtype=np.uint8)
    array[:12, :12], array[:12, 12:] = (250, 0, 0), (0, 250, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(array), format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(__import__("io").BytesIO(data))).convert("RGB")
    pixels = ImageReader(24, "squash", "white", 1000)(data)
    assert torch.equal(pixels, torch.from_numpy(np.array(upright)).permute(2, 0, 1))


def test_unreadable_exif_says_nothing(read: ImageReader, encode: Encode) -> None:
    data = encode(Image.new("RGB", (20, 20), (9, 9, 9)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert colour(read(data)) == [9, 9, 9]


def test_resize_modes(encode: Encode) -> None:
    array = np.zeros((10, 30, 3), dtype=np.uint8)
    array[:, 10:20] = 255
    data = encode(Image.fromarray(array), "PNG")
    squash, crop, pad = (ImageReader(SIZE, mode, "red", 1000)(data) for mode in ("squash", "crop", "pad"))
    assert [squash[0, 8, 0].item(), squash[0, 8, 8].item()] == pytest.approx([0, 255], abs=3)
    assert crop[:, :, 1:-1].min() == 255  # at the sides it is mixed with what was cut off
    assert pad[:, 0, 0].tolist() == [255, 0, 0] == pad[:, -1, -1].tolist()
    assert pad[:, 8, 8].tolist() == pytest.approx([255, 255, 255], abs=3)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (SIZE, SIZE), (3000, 300)])
def test_any_shape_becomes_the_square(encode: Encode, resize: Any, size: tuple[int, int]) -> None:
    reader = ImageReader(SIZE, resize, "white", 1_000_000)
    pixels = reader(encode(Image.new("RGB", size, (50, 60, 70)), "JPEG"))
    assert pixels.shape == (3, SIZE, SIZE)
    assert pixels[:, 7, 7].tolist() == pytest.approx([50, 60, 70], abs=2)


def test_a_large_jpeg_is_scaled_while_decoding_without_much_change(encode: Encode) -> None:
    array = np.asarray(Image.linear_gradient("L").resize((900, 700)).convert("RGB"))
    data = encode(Image.fromarray(array), "JPEG", quality=95)
    full = ImageReader(64, "squash", "white", 1_000_000)(encode(Image.fromarray(array), "PNG"))
    assert (ImageReader(64, "squash", "white", 1_000_000)(data).int() - full.int()).abs().max() <= 6


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("size", [(301, 200), (97, 260), (40, 40)])
def test_pixels_are_those_of_a_processor_of_transformers(
    resize: Any, size: tuple[int, int], resample: Any, encode: Encode
) -> None:
    """From a JPEG whose pixels are noise, several times as large."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "JPEG", quality=95)
    found = ImageReader(32, resize, "white", 1_000_000, draft=False, resample=resample)(data)
    square, settings = {"height": 32, "width": 32}, {"resample": Image.Resampling[resample.upper()]}
    crops = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square, **settings)
    squashes = transformers.SiglipImageProcessor(size=square, **settings)
    processor = {"crop": crops, "squash": squashes}[resize]
    options = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    wanted = processor(Image.open(io.BytesIO(data)), **options)["pixel_values"][0]
    assert torch.equal(found, wanted.to(torch.uint8))


def png_header(width: int, height: int, depth: int = 1) -> bytes:
    """A PNG that promises more than it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def reason(read: ImageReader, source: str | bytes) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's warning of bombs must not come through either
        with pytest.raises(BadImage) as caught:
            read(source)
    return str(caught.value)


def test_bombs_are_refused_by_their_header(read: ImageReader) -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert reason(read, png_header(30000, 30000)) == "30000 x 30000 pixels are more than data.max_pixels=1000000"
    assert "2000 x 501" in reason(read, png_header(2000, 501))
    assert "truncated" in reason(ImageReader(SIZE, "squash", "white", 10**10), png_header(14000, 13000))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_truncated_files_have_a_reason(read: ImageReader, encode: Encode, format: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8))
    data = encode(noise, format)
    assert len(reason(read, data[: int(len(data) * share)])) < 120


def test_files_that_cannot_be_read(read: ImageReader, tmp_path: Path) -> None:
    import os

    (tmp_path / "empty.png").touch()
    (tmp_path / "page.html").write_text("<html>404</html>")
    (tmp_path / "vector.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    os.mkfifo(tmp_path / "pipe")
    expected = {
        "empty.png": "empty file",
        "page.html": "not an image",
        "vector.svg": "not an image",
        "pipe": "not a regular file",
        "nowhere.png": "no such file",
        "page.html/a.png": "no such file",
        "nul\0.png": "cannot be opened",
        "x" * 300: "no such file",
        ".": "a folder",
    }
    for name, start in expected.items():
        assert reason(read, str(tmp_path / name)).startswith(start), name
    assert reason(read, b"") == "no bytes"
    assert reason(read, png_header(0, 5))


def test_no_permission(read: ImageReader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError

    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setattr(Path, "read_bytes", refuse)  # tests may run as root, whom no mode stops
    assert reason(read, str(tmp_path / "a.png")) == "no permission to read the file"


def test_a_background_that_is_no_colour_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"data\.background=whit"):
        ImageReader(8, "pad", "whit", 1)
