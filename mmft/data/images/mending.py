"""Damaged PNG and JPEG files: which have all their pixels, and what a decoder must be spared to read them.

A decoder gives up over a huge comment or a missing end marker, and on the other hand fills what is missing with grey or
ignores a wrong checksum. Here the pixels decide: if all are there, the image is used; otherwise it is bad, and the
reason says how much is missing.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_END_OF_JPEG = b"\xff\xd9"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG, by its colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_STEP = 2**20  # bytes read, and bytes of pixels inflated, at once
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # neither a stuffed zero nor a restart
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_FILLING = 64  # bytes; fewer zeros may be data of a plain image


def _continuation(byte: bytes, first: int) -> bytes:
    """What may stand where the data of a JPEG end: if a pixel depends on it, data are missing.

    It fills more than the blocks at the image's edge of which no pixel is seen, and has each restart marker. A decoder
    skips one that is one or two ahead of the one it needs; hence `first`, the number with which they begin.
    """
    filling = byte * 4096
    return filling + b"".join(bytes((0xFF, 0xD0 + (first + n) % 8)) + filling for n in range(8))


_CONTINUATIONS = (_continuation(b"\0", 0), _continuation(b"\x55", 4), _continuation(b"\xaa", 2))


class BadImage(ValueError):
    """The image cannot be read; the message gives a short reason."""


def check(data: bytes) -> None:
    """Checks the checksums of a PNG's header, palette and pixels, which Pillow does not compare.

    Raises:
        BadImage: one is wrong.
    """
    if data.startswith(PNG):
        for chunk in _chunks(data):
            if chunk.critical and chunk.whole and not chunk.right:
                raise BadImage(f"damaged: the checksum of its PNG chunk {chunk.name} is wrong")


def mended(data: bytes, decode: Callable[[bytes], Image.Image]) -> bytes | None:
    """The same pixels in a file without what a decoder stumbles over; None if nothing can be done.

    Args:
        data: what could not be decoded.
        decode: encoded bytes -> loaded image, at full size and not turned.

    Raises:
        BadImage: pixels are missing or damaged.
    """
    if data.startswith(PNG):
        return _mended_png(data)
    if data.startswith(JPEG):
        return _mended_jpeg(data, decode)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        size = int.from_bytes(data[4:8], "little") + 8
        if len(data) < size:
            raise BadImage(f"truncated: {_percent(1 - len(data) / size)} of the WebP file is missing")
    return None


def check_jpeg_end(data: bytes, image: Image.Image, decode: Callable[[bytes], Image.Image]) -> None:
    """Checks that a JPEG that could be decoded has all its pixels, where that is in doubt.

    It is if the end marker is missing, or if the last pixel has the grey with which a decoder replaces missing data.

    Raises:
        BadImage: pixels are missing.
    """
    grey = image.getpixel((image.width - 1, image.height - 1)) in (128, (128, 128, 128))
    if grey or not data.endswith(_END_OF_JPEG):
        end = _read_jpeg(data).end
        if grey or end == len(data):
            _check_all_pixels(_without_filling(data[:end], decode), decode)


def _percent(share: float) -> str:
    return f"{share:.0%}" if 0.01 <= share < 0.995 else "less than 1%" if share < 0.01 else "nearly all"


# ---------------------------------------------------------------- PNG


class _Chunk(NamedTuple):
    kind: bytes
    content: bytes
    stored: bytes  # with length and checksum
    whole: bool
    right: bool  # its checksum is

    @property
    def critical(self) -> bool:
        return not self.kind[0] & 0x20

    @property
    def name(self) -> str:
        return self.kind.decode("ascii")


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """The chunks up to the end marker, the end of the data, or something that is no chunk."""
    at = len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha():
            return
        stored = data[at : at + 12 + length]
        whole = len(stored) == 12 + length
        content = stored[8 : 8 + length]
        right = whole and zlib.crc32(content, zlib.crc32(kind)) == int.from_bytes(stored[-4:])
        yield _Chunk(kind, content, stored, whole, right)
        if kind == b"IEND":
            return
        at += 12 + length


def _mended_png(data: bytes) -> bytes:
    """Only what the pixels of the first frame, their transparency and their orientation need."""
    chunks = list(_chunks(data))
    header = chunks[0] if chunks else None
    if header is None or header.kind != b"IHDR" or not header.right or len(header.content) != 13:
        raise BadImage("damaged: the PNG has no whole header")
    for chunk in chunks:
        if chunk.kind == b"tRNS" and not chunk.right:
            raise BadImage("damaged: the checksum of its PNG chunk tRNS is wrong")
    pixels = b"".join(chunk.content for chunk in chunks if chunk.kind == b"IDAT")
    _check_inflated(pixels, _bytes_of_pixels(header.content))
    kept = [chunk.stored for chunk in chunks if chunk.kind in (b"IHDR", b"PLTE", b"tRNS", b"eXIf") and chunk.right]
    return PNG + b"".join((*kept, _png_chunk(b"IDAT", pixels), _png_chunk(b"IEND", b"")))


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def _bytes_of_pixels(header: bytes) -> int:
    """Size of the inflated rows, each with its filter byte, from the content of IHDR."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _CHANNELS.get(colour, 1)
    total = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _check_inflated(pixels: bytes, expected: int) -> None:
    inflate = zlib.decompressobj()
    count = 0
    try:
        for start in range(0, len(pixels), _STEP):
            part = pixels[start : start + _STEP]
            while part and count < expected and not inflate.eof:
                count += len(inflate.decompress(part, _STEP))
                part = inflate.unconsumed_tail
        while count < expected and (held := inflate.decompress(b"", _STEP)):
            count += len(held)
    except zlib.error:
        raise BadImage(f"damaged: its pixels cannot be inflated from {_percent(count / expected)} on") from None
    if count < expected:
        raise BadImage(f"truncated: {_percent(1 - count / expected)} of its pixels are missing")


# ---------------------------------------------------------------- JPEG


class _Jpeg(NamedTuple):
    end: int  # where the end marker stands, or the data end
    complete: bool  # every bit of every coefficient is in some scan
    bare: bytes  # segments before the first scan that pixels depend on, those that name colours and orientation too
    scans: int  # where the first scan's header starts


def _read_jpeg(data: bytes) -> _Jpeg:
    """Follows the markers of a JPEG (ITU T.81, annex B)."""
    missing: dict[int, set[int]] = {}  # by component: coefficients with bits in no scan yet
    progressive, bare, scans, at = False, b"\xff\xd8", 0, 2
    while match := _MARKER.search(data, at):
        marker, start = match[1][0], match.end()
        if marker == 0xD9:
            return _Jpeg(match.start(), bool(missing) and not any(missing.values()), bare, scans)
        if marker in (0x01, 0xD8):
            at = start
            continue
        length = int.from_bytes(data[start : start + 2])
        content = data[start + 2 : start + length]
        if length < 2 or len(content) < length - 2:
            return _Jpeg(len(data), False, bare, scans)
        if marker in _FRAMES and len(content) > 6:
            missing = {component: set(range(64)) for component in content[6::3]}
            progressive = marker in _PROGRESSIVE
        elif marker == 0xDA:
            scans = scans or match.start()
            _take_scan(content, missing, progressive)
        if not scans and not (0xE2 <= marker <= 0xED or marker in (0xEF, 0xFE)):
            bare += data[match.start() : start + length]
        at = start + length
    return _Jpeg(len(data), bool(missing) and not any(missing.values()), bare, scans)


def _take_scan(header: bytes, missing: dict[int, set[int]], progressive: bool) -> None:
    """Removes from `missing` what a scan with this header completes."""
    count = header[0] if header else 0
    if len(header) < 4 + 2 * count:
        return
    first, last, approximation = header[1 + 2 * count :][:3]
    done = range(first, last + 1) if progressive else range(64)
    for component in header[1 : 1 + 2 * count : 2]:
        if not progressive or approximation & 15 == 0:
            missing.get(component, set()).difference_update(done)


def _mended_jpeg(data: bytes, decode: Callable[[bytes], Image.Image]) -> bytes:
    """Without comments and colour profiles, and with an end marker."""
    found = _read_jpeg(data)
    if not found.scans:
        raise BadImage("truncated or damaged before the first pixel of the JPEG")
    if not found.complete:
        raise BadImage("truncated: scans of the JPEG are missing")
    body = _without_filling(found.bare + data[found.scans : found.end], decode)
    _check_all_pixels(body, decode)
    return body + _END_OF_JPEG


def _without_filling(body: bytes, decode: Callable[[bytes], Image.Image]) -> bytes:
    """`body` without half a marker at its end, or zeros that a broken download left in place of data.

    The data of a plain image may end with zeros, too; but then its pixels depend on them.
    """
    body = body.removesuffix(b"\xff")
    rest = body.removesuffix(bytes(_FILLING))
    if rest == body or _incomplete_rows(rest, decode):
        return body
    rest = body.rstrip(b"\0")
    return rest + b"\0" if rest.endswith(b"\xff") else rest  # that zero is a part of the data


def _check_all_pixels(body: bytes, decode: Callable[[bytes], Image.Image]) -> None:
    """Raises BadImage if any pixel depends on what follows `body`, a JPEG without its end marker."""
    if incomplete := _incomplete_rows(body, decode):
        raise BadImage(f"truncated: {_percent(incomplete)} of its rows are incomplete")


def _incomplete_rows(body: bytes, decode: Callable[[bytes], Image.Image]) -> float:
    """The share of rows below the first pixel that depends on what follows `body`; 0 if none does."""
    first = np.asarray(decode(body + _END_OF_JPEG))
    differs = np.zeros(len(first), dtype=bool)  # (rows,)
    for more in _CONTINUATIONS:
        other = np.asarray(decode(body + more + _END_OF_JPEG))
        differs |= (other != first).reshape(len(first), -1).any(axis=1)
    return 1 - int(differs.argmax()) / len(differs) if differs.any() else 0.0
