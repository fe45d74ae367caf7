"""Damaged images: each is read or refused, the same each time, and one that was cut is read whole or not at all."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from random import Random

import numpy as np
import PIL
import torch
from PIL import Image

from fuzz.damage import Damage, changed, cut, emptied, flipped, other, random_bytes, zeroed
from fuzz.outcome import REFUSED, Case, Unclear, Wrong, check_clear, generator
from mmft.data.images.image import ImageReader, image_size
from mmft.data.images.mending import BadImage

SECONDS = 20.0
_READER = ImageReader(32, "squash", "white", 1_000_000)


@cache
def originals() -> dict[str, bytes]:
    """Encoded noise in every format and mode that people have, by name."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("RGB").convert("P")
    deep = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    made: list[tuple[str, Image.Image, str, dict[str, object]]] = [
        ("jpeg", rgb, "JPEG", {"exif": exif}),
        ("large jpeg", rgb.resize((480, 400)), "JPEG", {}),  # is decoded at a smaller scale
        ("large progressive jpeg", rgb.resize((480, 400)), "JPEG", {"progressive": True}),
        ("progressive jpeg", rgb, "JPEG", {"progressive": True}),
        ("jpeg with restarts", rgb, "JPEG", {"restart_marker_blocks": 3}),
        ("grey jpeg", grey, "JPEG", {}),
        ("cmyk jpeg", rgb.convert("CMYK"), "JPEG", {}),
        ("mpo", rgb, "MPO", {"save_all": True, "append_images": [grey.convert("RGB")]}),
        ("png", rgb, "PNG", {"exif": exif}),
        ("stored png", rgba, "PNG", {"compress_level": 0}),
        ("palette png", palette, "PNG", {"transparency": 3}),
        ("deep png", deep, "PNG", {}),
        ("animated png", rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        ("webp", rgb, "WEBP", {}),
        ("lossless webp", rgba, "WEBP", {"lossless": True, "exif": exif}),
        ("animated webp", rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        ("gif", palette, "GIF", {"transparency": 3}),
        ("animated gif", rgb, "GIF", {"save_all": True, "append_images": [rgb.rotate(90)]}),
        ("bmp", rgb, "BMP", {}),
        ("palette bmp", palette, "BMP", {}),
        ("tiff", rgb, "TIFF", {"exif": exif}),
        ("lzw tiff", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("deflated tiff", deep, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("jpeg tiff", rgb, "TIFF", {"compression": "jpeg"}),
        ("avif", rgb, "AVIF", {}),
        ("jpeg 2000", rgb, "JPEG2000", {}),
        ("ppm", rgb, "PPM", {}),
        ("ico", rgba, "ICO", {}),
        ("tga", rgb, "TGA", {"compression": "tga_rle"}),
        ("pcx", rgb, "PCX", {}),
        ("qoi", rgb, "QOI", {}),
        ("dds", rgba, "DDS", {}),
        ("sgi", rgb, "SGI", {}),
    ]
    if int(PIL.__version__.partition(".")[0]) >= 13:  # before, what a damaged one lacks is whatever memory held
        made.append(("fax tiff", grey.convert("1"), "TIFF", {"compression": "group4"}))
    return {name: _encoded(image, form, options) for name, image, form, options in made}


def _encoded(image: Image.Image, form: str, options: dict[str, object]) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def cases(count: int, first: int, seed: int, _: Path) -> Iterator[Case]:
    """`count` damaged images from number `first` on."""
    names = sorted(originals())
    for number in range(first, first + count):
        random = generator(seed, "images", number)
        name = names[number % len(names)]
        damaged, how = other(originals()[name], random, _DAMAGES)
        whole = originals()[name] if how in ("cut", "tail", "preamble") else None
        yield Case(number, f"{name}, {how}", partial(_read, damaged, whole))


def _read(damaged: bytes, whole: bytes | None) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, again = _outcome(damaged), _outcome(damaged)
        if type(first) is not type(again) or not _same(first, again):
            raise Wrong(f"read twice with two outcomes: {_short(first)}, then {_short(again)}")
        if isinstance(first, str):
            check_clear([first])
            return REFUSED
        if whole is None:
            return "read"
        if not _same(first, _outcome(whole)):
            raise Wrong("read with other pixels than the whole image, of which it is a part")
        return "read whole"


def _outcome(data: bytes) -> torch.Tensor | str:
    """(3, H, W) uint8, or the reason."""
    try:
        pixels: torch.Tensor = _READER(data)
    except BadImage as error:
        return str(error)
    if pixels.shape != (3, 32, 32) or pixels.dtype != torch.uint8:
        raise Wrong(f"pixels of {pixels.dtype} {tuple(pixels.shape)}")
    if min(image_size(data)) < 1:
        raise Unclear(f"a size of {image_size(data)}")
    return pixels


def _same(one: torch.Tensor | str, other_one: torch.Tensor | str) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other_one, torch.Tensor):
        return torch.equal(one, other_one)
    return isinstance(one, str) and one == other_one


def _short(outcome: torch.Tensor | str) -> str:
    return outcome if isinstance(outcome, str) else f"pixels of mean {outcome.float().mean():.1f}"


# ---------------------------------------------------------------- damage


def header(data: bytes, random: Random) -> bytes:
    """One to four of the first 64 bytes are others."""
    made = bytearray(data)
    for _ in range(random.randint(1, 4)):
        made[random.randrange(min(64, len(made)))] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return bytes(made)


def tail(data: bytes, random: Random) -> bytes:
    """Something follows the end."""
    return data + random.choice((b"\0" * 999, b"\r\n", b"<!-- cached -->", random.randbytes(50), data))


def preamble(data: bytes, random: Random) -> bytes:
    """Something comes before the start that mmft passes over, if the format has a signature."""
    response = b"HTTP/1.1 200 OK\r\nContent-Type: image/x\r\n\r\n"
    return random.choice((b"\r\n", b"\xef\xbb\xbf", b" \t", response)) + data


def moved(data: bytes, random: Random) -> bytes:
    """A stretch stands elsewhere."""
    start, end, to = sorted(random.randrange(len(data)) for _ in range(3))
    return data[:start] + data[end:to] + data[start:end] + data[to:]


_DAMAGES: tuple[Damage, ...] = (
    *(changed, flipped, cut, cut, zeroed, emptied, random_bytes),
    *(header, header, tail, preamble, moved),
)
