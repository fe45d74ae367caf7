"""What a file holds, by its first bytes: the formats that are decoded, and the names of those that are not.

Decoded is every raster format that Pillow reads itself. Those that call a program (EPS), that read only on one system
(WMF) or that only recognise a format without decoding it (BUFR, GRIB, HDF5, MPEG) are off, as are PSD and FITS, whose
decoders have had memory and decompression holes in the range of Pillow's versions that mmft admits.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import re
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from PIL import Image

_DECODED: tuple[str, ...] = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "PPM",
    "QOI",
    "PCX",
    "DDS",
    "SGI",
    "SUN",
)
_DECODED += ("MSP", "XBM", "XPM")
CONTAINERS = ("ICO", "CUR", "ICNS", "DCX", "BLP")
"""Formats that are decoded and hold images with sizes of their own, which may exceed the one in the header."""
UNSIGNED = ("TGA",)
"""Formats that are decoded and begin with no signature, and so are tried last."""

_SPACE = b" \t\r\n\0"
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"RIFF", b"II*\0", b"MM\0*", b"BM")
_MESSAGE = re.compile(rb"(?:HTTP/[\d.]+ \d+[^\r\n]*\r?\n)?(?:[A-Za-z][A-Za-z0-9-]*:[^\r\n]*\r?\n)+\r?\n")


class _Kind(NamedTuple):
    """A format that is not decoded: where its signature lies, what it is called, what to do about it."""

    offset: int
    signature: bytes
    name: str
    advice: str


_CONVERT = "convert it to PNG or JPEG"
_UNPACK = "unpack it and give the path of the image"
_RAW = "develop it to TIFF or JPEG"
_FRAME = "save a frame of it as PNG or JPEG"
_COPY = "copy the image again, in binary mode"

_FOREIGN = tuple(
    _Kind(*one)
    for one in (
        (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image", "type pip install pillow-jxl-plugin, or " + _CONVERT),
        (0, b"\xff\x0a", "a JPEG XL image", "type pip install pillow-jxl-plugin, or " + _CONVERT),
        (0, b"8BPS", "a Photoshop document", _CONVERT),
        (0, b"gimp xcf", "a GIMP document", _CONVERT),
        (0, b"SIMPLE  =", "a FITS file", _CONVERT),
        (0, b"\x76\x2f\x31\x01", "an OpenEXR image", _CONVERT),
        (0, b"#?RADIANCE", "a Radiance HDR image", _CONVERT),
        (0, b"AT&TFORM", "a DjVu document", _CONVERT),
        (0, b"II\xbc", "a JPEG XR image", _CONVERT),
        (0, b"BPG\xfb", "a BPG image", _CONVERT),
        (128, b"DICM", "a DICOM file", _CONVERT),
        (0, b"%PDF", "a PDF document", "save its page as PNG"),
        (0, b"%!PS", "a PostScript drawing", _CONVERT),
        (0, b"\xc5\xd0\xd3\xc6", "an EPS drawing", _CONVERT),
        (0, b"\xd7\xcd\xc6\x9a", "a WMF drawing", _CONVERT),
        (40, b" EMF", "an EMF drawing", _CONVERT),
        (8, b"CR\x02\0", "a Canon raw photograph", _RAW),
        (0, b"FUJIFILMCCD-RAW", "a Fujifilm raw photograph", _RAW),
        (0, b"IIRO", "an Olympus raw photograph", _RAW),
        (0, b"IIU\0", "a Panasonic raw photograph", _RAW),
        (0, b"FOVb", "a Sigma raw photograph", _RAW),
        (8, b"AVI ", "an AVI video", _FRAME),
        (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video", _FRAME),
        (0, b"\0\0\x01\xba", "an MPEG video", _FRAME),
        (8, b"WAVE", "a WAV recording", "give an image"),
        (0, b"ID3", "an MP3 recording", "give an image"),
        (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
        (0, b"PK\x03\x04", "a ZIP archive", _UNPACK),
        (0, b"PK\x05\x06", "an empty ZIP archive", "give an image"),
        (0, b"BZh", "a bzip2 archive", _UNPACK),
        (0, b"\xfd7zXZ\0", "an xz archive", _UNPACK),
        (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
        (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
        (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
        (257, b"ustar", "a tar archive", _UNPACK),
        (0, b"version https://git-lfs.github.com/", "a Git LFS pointer", "type git lfs pull"),
        (0, b"/annex/objects/", "a git-annex pointer", "type git annex get"),
        (0, b"L\0\0\0\x01\x14\x02\0", "a Windows shortcut", "give the path of the image itself"),
        (0, b"[InternetShortcut]", "a link to a web page", "give the path of the image itself"),
        (0, b"[Desktop Entry]", "a desktop shortcut", "give the path of the image itself"),
        (0, b"book\0\0\0\0mark", "a macOS alias", "give the path of the image itself"),
        (0, b"\0\x05\x16\x07", "a macOS ._ file of another file's attributes", "leave it out"),
        (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office or Thumbs.db file", "give an image"),
        (0, b"SQLite format 3\0", "an SQLite database", "give an image"),
        (0, b"\x93NUMPY", "a NumPy array", "save it as PNG, or give the array from Python"),
        (0, b"PAR1", "a Parquet file", "give an image"),
        (0, b"\x89PNG\n\x1a\n", "a PNG whose line ends were converted", _COPY),
        (0, b"\x89PNG\r\r\n", "a PNG whose line ends were converted", _COPY),
        (0, b"\xef\xbf\xbd", "a binary file that was saved as text", _COPY),
    )
)
_BRANDS = {  # of an ISO media file; the first that is found counts
    b"heic": ("a HEIC image", "type pip install pillow-heif, or " + _CONVERT),
    b"heix": ("a HEIC image", "type pip install pillow-heif, or " + _CONVERT),
    b"hevc": ("a HEIC image sequence", "type pip install pillow-heif, or " + _CONVERT),
    b"avif": ("an AVIF image", "type pip install -U 'pillow>=11.3', or " + _CONVERT),
    b"avis": ("an AVIF image sequence", "type pip install -U 'pillow>=11.3', or " + _CONVERT),
    b"mif1": ("a HEIF image", "type pip install pillow-heif, or " + _CONVERT),
    b"crx ": ("a Canon raw photograph", _RAW),
}
_MARKUP = (
    (re.compile(rb"<svg[\s>]", re.IGNORECASE), "an SVG drawing", _CONVERT),
    (
        re.compile(rb"<!doctype html|<html[\s>]|<head[\s>]|<body[\s>]", re.IGNORECASE),
        "an HTML page",
        "download the image again",
    ),
    (re.compile(rb"<Error>.*<Code>", re.DOTALL), "a storage service's error message", "download the image again"),
    (re.compile(rb"^<\?xml|^<!DOCTYPE", re.IGNORECASE), "an XML document", "give an image"),
    (re.compile(rb"^<[a-z]+[^<>]*>", re.IGNORECASE), "an HTML page", "download the image again"),
)
_OWN = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"RIFF": "WebP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_PLUGINS = {"HEI": "pillow_heif", "JPEG XL": "pillow_jxl"}
"""Modules that make Pillow open a format, by a part of the format's name here."""


@cache
def formats() -> tuple[str, ...]:
    """The formats that this installation of Pillow may decode, less `CONTAINERS` and `UNSIGNED`."""
    Image.init()
    return tuple(name for name in _DECODED if name in Image.OPEN)


def without_preamble(data: bytes) -> bytes:
    """`data` from its image's signature on, if only blanks, a byte order mark or an HTTP header come before it."""
    if data.startswith(_SIGNATURES):
        return data
    rest = data
    for bom in _BOMS:
        rest = rest.removeprefix(bom)
    rest = rest.lstrip(_SPACE)
    if message := _MESSAGE.match(rest[:65536]):
        rest = rest[message.end() :].lstrip(_SPACE)
    return rest if rest.startswith(_SIGNATURES) else data


def foreign(data: bytes) -> tuple[str, str] | None:
    """What the bytes hold (`a HEIC image`) and what to do about it, if it is nothing that is decoded; else None."""
    for kind in _FOREIGN:
        if data.startswith(kind.signature, kind.offset):
            return kind.name, kind.advice
    if data[4:8] == b"ftyp":
        brands = [data[at : at + 4] for at in (8, *range(16, min(int.from_bytes(data[:4]), 256), 4))]
        found = (_BRANDS[brand] for brand in brands if brand in _BRANDS)
        return next(found, ("a video", _FRAME))
    return _foreign_text(data)


def _foreign_text(data: bytes) -> tuple[str, str] | None:
    if not data.strip(b"\0"):
        return f"{len(data)} zero bytes", "copy the image again"
    if data.startswith(_BOMS[1:]):
        data = data[:8192].decode("utf-16", errors="replace").encode()
    message = _MESSAGE.match(data[:65536])
    text = data[message.end() if message else 0 :][:4096].removeprefix(_BOMS[0]).lstrip()
    if not text:
        return "blanks alone", "copy the image again"
    if text.startswith(b"<"):
        return next(((name, advice) for pattern, name, advice in _MARKUP if pattern.search(text)), None)
    if b".git/annex/objects/" in text[:200]:
        return "a git-annex pointer", "type git annex get"
    if text[:1] in b"{[" and text[1:].lstrip()[:1] in (b'"', b"{", b"[", b"}"):
        return "JSON text", "download the image again"
    encoded = re.match(rb"(?:data:image/[a-z0-9.+-]+;base64,)?([A-Za-z0-9+/_-]{16,}={0,2})\s", text[:4096] + b"\n")
    with suppress(binascii.Error):
        if encoded and base64.b64decode(encoded[1][:16], altchars=b"-_" if b"_" in text else None).startswith(
            _SIGNATURES
        ):
            return "an image as base64 text", "decode it"
    words = text[:40].decode(errors="ignore").splitlines()[0]
    return (f"the text {words!r}", "give an image") if words.isprintable() and text.isascii() else None


def with_plugin(data: bytes) -> tuple[str, ...]:
    """Formats that an installed plugin of Pillow adds for these bytes, now registered; empty if there is none.

    These are pillow-heif for HEIC and pillow-jxl-plugin for JPEG XL.
    """
    name = (foreign(data) or ("", ""))[0]
    module = next((module for part, module in _PLUGINS.items() if part in name), None)
    if module is None:
        return ()
    try:
        plugin = importlib.import_module(module)
    except ImportError:
        return ()
    if hasattr(plugin, "register_heif_opener"):
        plugin.register_heif_opener()
    return tuple(one for one in ("HEIF", "JXL") if one in Image.OPEN)


def why_unknown(data: bytes) -> str:
    """Why no decoder knows these bytes, in one sentence that names what they are as far as that is known."""
    found = foreign(data)
    own = next((name for signature, name in _OWN.items() if data.startswith(signature)), None)
    if found is None and own is not None:
        return f"a damaged {own} file, whose header cannot be read"
    if found is None:
        return f"not an image in a known format; it begins with {data[:8]!r}"
    name, advice = found
    if name.endswith(("image", "image sequence", "photograph")):
        return f"{name}, which cannot be decoded here; {advice}"
    return f"not an image but {name}; {advice}"
