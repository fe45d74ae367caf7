"""Damaged images: used where all pixels are there, with the pixels of the undamaged file; otherwise the true reason."""

from __future__ import annotations

import base64
import gzip
import io
import struct
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from mmft.data.images.image import BadImage, ImageReader, image_size

Encode = Callable[..., bytes]
Change = Callable[[bytes], bytes]
MIXED = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 48, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def read() -> ImageReader:
    return ImageReader(24, "squash", "white", 1_000_000)


def reason(read: ImageReader, source: str | bytes) -> str:
    with pytest.raises(BadImage) as caught:
        read(source)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
    return str(caught.value)


def chunk(kind: bytes, content: bytes, wrong: int = 0) -> bytes:
    """A chunk of a PNG; `wrong` is added to its checksum."""
    checksum = zlib.crc32(kind + content) ^ wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def behind_header(new: bytes) -> Change:
    return lambda data: data[:33] + new + data[33:]


HUGE = b"x" * 2_000_000
WHOLE_PNG: dict[str, Change] = {
    "huge zTXt": behind_header(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(HUGE))),
    "huge iTXt": behind_header(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(HUGE))),
    "huge tEXt": behind_header(chunk(b"tEXt", b"Comment\0" + HUGE * 40)),
    "huge iCCP": behind_header(chunk(b"iCCP", b"profile\0\0" + zlib.compress(HUGE))),
    "broken iCCP": behind_header(chunk(b"iCCP", b"profile\0\0no zlib")),
    "iCCP of an unknown method": behind_header(chunk(b"iCCP", b"profile\0\7" + zlib.compress(b"a"))),
    "broken zTXt": behind_header(chunk(b"zTXt", b"Comment\0\0no zlib")),
    "short gAMA": behind_header(chunk(b"gAMA", b"\0")),
    "short pHYs": behind_header(chunk(b"pHYs", b"\0")),
    "checksum of tEXt": behind_header(chunk(b"tEXt", b"Comment\0a", wrong=1)),
    "checksum of tIME": behind_header(chunk(b"tIME", b"\7\xe0\1\1\1\1\1", wrong=1)),
    "no IEND": lambda data: data[:-12],
    "half of IEND": lambda data: data[:-7],
    "no checksum of the last IDAT": lambda data: data[:-16],
    "tail": lambda data: data + b"trailing \x89PNG garbage",
    "zeros behind": lambda data: data + bytes(5000),
    "text behind IDAT": lambda data: data[:-12] + chunk(b"zTXt", b"C\0\0" + zlib.compress(HUGE)) + data[-12:],
    "broken text behind IDAT": lambda data: data[:-12] + chunk(b"tEXt", b"C\0a", wrong=1) + data[-12:],
    "rubbish for IEND": lambda data: data[:-12] + b"<!-- cached -->",
}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
@pytest.mark.parametrize("kind", WHOLE_PNG)
def test_a_png_whose_pixels_are_whole(read: ImageReader, encode: Encode, kind: str, mode: str) -> None:
    image = (
        Image.fromarray(np.asarray(MIXED.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else MIXED.convert(mode)
    )
    options = {"transparency": 5} if mode == "P" else {}
    good = encode(image, "PNG", **options)
    damaged = WHOLE_PNG[kind](good)
    assert torch.equal(read(damaged), read(good))
    assert image_size(damaged) == (48, 60)


def test_a_mended_png_keeps_its_orientation(read: ImageReader, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    good = encode(MIXED, "PNG", exif=exif)
    assert torch.equal(read(WHOLE_PNG["huge zTXt"](good)), read(good))
    assert not torch.equal(read(good), read(encode(MIXED, "PNG")))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def test_a_png_whose_pixels_are_not_whole(read: ImageReader, encode: Encode) -> None:
    good = encode(MIXED, "PNG", compress_level=0)  # stored: a flipped byte is a wrong pixel and nothing else
    start = good.index(b"IDAT") + 4
    assert reason(read, flipped(good, start + 3000)) == "damaged: the checksum of its PNG chunk IDAT is wrong"
    assert reason(read, flipped(good, 17)) == "damaged: the checksum of its PNG chunk IHDR is wrong"
    assert reason(read, good[: start + (len(good) - start) // 4]) == "truncated: 75% of its pixels are missing"
    assert reason(read, good[:start]) == "truncated: nearly all of its pixels are missing"
    assert reason(read, good[:20]) == "damaged: the PNG has no whole header"
    palette = encode(MIXED.convert("P"), "PNG", transparency=3)
    at = palette.index(b"tRNS") + 4
    assert reason(read, flipped(palette, at)) == "damaged: the checksum of its PNG chunk tRNS is wrong"
    assert "PLTE" in reason(read, flipped(palette, palette.index(b"PLTE") + 9))


JPEGS = {
    "plain": {},
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "restarts": {"restart_marker_blocks": 2},
    "coarse": {"quality": 5},
}


@pytest.fixture(params=JPEGS)
def jpeg(request: pytest.FixtureRequest, encode: Encode) -> bytes:
    return encode(MIXED, "JPEG", **JPEGS[request.param])


WHOLE_JPEG: dict[str, Change] = {
    "no end marker": lambda data: data[:-2],
    "half of the end marker": lambda data: data[:-1],
    "tail": lambda data: data + b"trailing garbage \xff\xd8\xff\xd9" * 9,
    "tail in place of the end marker": lambda data: data[:-2] + b"\r\n--boundary--\r\n",
    "blank line": lambda data: b"\r\n" + data,
    "BOM": lambda data: b"\xef\xbb\xbf" + data,
    "HTTP header": lambda data: b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nServer: x\r\n\r\n" + data,
    "MIME header": lambda data: b"Content-Type: image/jpeg\n\n" + data,
    "broken profile": lambda data: data[:2] + b"\xff\xe2\0\x10ICC_PROFILE\0\7" + data[2:],
    "broken MPF": lambda data: data[:2] + b"\xff\xe2\0\x0cMPF\0II*\0ab" + data[2:],
    "broken Photoshop": lambda data: data[:2] + b"\xff\xed\0\x16Photoshop 3.0\x008BIM\x04" + data[2:],
    "broken EXIF": lambda data: data[:2] + b"\xff\xe1\0\x0eExif\0\0MM\0*ab" + data[2:],
    "huge comment": lambda data: data[:2] + (b"\xff\xfe\xff\xff" + b"c" * 65533) * 40 + data[2:],
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", WHOLE_JPEG)
def test_a_jpeg_whose_pixels_are_whole(read: ImageReader, jpeg: bytes, kind: str) -> None:
    assert torch.equal(read(WHOLE_JPEG[kind](jpeg)), read(jpeg))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_grey_or_cmyk_jpeg_without_its_end_marker(read: ImageReader, encode: Encode, mode: str) -> None:
    good = encode(MIXED.convert(mode), "JPEG")
    assert torch.equal(read(good[:-2]), read(good))
    assert "truncated" in reason(read, good[: len(good) * 2 // 3])


def test_a_mended_jpeg_keeps_its_orientation(read: ImageReader, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    good = encode(MIXED, "JPEG", exif=exif)
    assert torch.equal(read(good[:-2]), read(good))
    assert not torch.equal(read(good), read(encode(MIXED, "JPEG")))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_jpeg_whose_pixels_are_not_whole(read: ImageReader, jpeg: bytes, share: float) -> None:
    cut = jpeg[: int(len(jpeg) * share)]
    assert reason(read, cut).startswith("truncated")
    if share < 0.9 and b"\xff\xc2" not in jpeg:  # a decoder makes the rest grey, by which it is found
        assert "truncated" in reason(read, cut + b"\xff\xd9")


def test_one_missing_byte_is_found(read: ImageReader, jpeg: bytes) -> None:
    assert reason(read, jpeg[:-8]).startswith("truncated")


def test_zeros_in_place_of_data_are_found(read: ImageReader, jpeg: bytes) -> None:
    half = len(jpeg) * 3 // 4
    assert reason(read, jpeg[:half] + bytes(len(jpeg) - half)).startswith("truncated")
    assert torch.equal(read(jpeg[:-2] + bytes(5000)), read(jpeg))


def test_zeros_that_are_data_are_no_damage(read: ImageReader, encode: Encode) -> None:
    plain = encode(Image.new("L", (800, 800), 200), "JPEG", optimize=True)
    assert plain[:-2].endswith(bytes(100))
    for data in (plain, plain[:-2]):
        assert read(data).eq(200).all()
    assert reason(read, plain[:-200]).startswith("truncated")


def test_missing_colour_behind_blocks_that_are_not_seen_is_found(read: ImageReader, encode: Encode) -> None:
    data = encode(MIXED.crop((0, 0, 48, 40)), "JPEG", quality=75)  # the lower half of the last blocks is outside
    for missing in range(3, 60):
        assert reason(read, data[:-missing]).startswith("truncated")


def test_missing_restart_intervals_are_found(read: ImageReader, encode: Encode) -> None:
    data = encode(MIXED, "JPEG", restart_marker_blocks=1)
    markers = [
        at for at in range(data.index(b"\xff\xda"), len(data)) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7
    ]
    assert len(markers) > 8
    for at in markers:
        for end in (at, at + 1, at + 2):
            assert reason(read, data[:end]).startswith("truncated")


def test_the_share_of_missing_rows_is_told(read: ImageReader, encode: Encode) -> None:
    tall = Image.fromarray(np.random.default_rng(0).integers(0, 255, (800, 64, 3), dtype=np.uint8))
    data = encode(tall, "JPEG")
    share = int(reason(read, data[: len(data) // 4]).split()[1].rstrip("%"))
    assert 70 <= share <= 80


def test_missing_scans_are_found(read: ImageReader, encode: Encode) -> None:
    data = encode(MIXED, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert reason(read, data[: data.rindex(b"\xff\xc4", 0, last)]) == "truncated: scans of the JPEG are missing"


def test_the_grey_of_a_whole_jpeg_is_no_damage(read: ImageReader, encode: Encode) -> None:
    assert read(encode(Image.new("RGB", (40, 40), (128, 128, 128)), "JPEG")).eq(128).all()


def test_webp_says_how_much_is_missing(read: ImageReader, encode: Encode) -> None:
    data = encode(MIXED, "WEBP")
    assert reason(read, data[: len(data) // 2]) == "truncated: 50% of the WebP file is missing"


FORMATS = ["AVIF", "JPEG2000", "PPM", "ICO", "ICNS", "TGA", "QOI", "PCX", "DDS", "SGI", "MPO"]


@pytest.mark.parametrize("format", FORMATS)
def test_what_pillow_decodes_is_read(encode: Encode, tmp_path: Path, format: str) -> None:
    image = Image.new("RGB", (64, 64), (200, 100, 50))
    file = tmp_path / "named.jpg"
    file.write_bytes(encode(image, format))
    assert ImageReader(24, "squash", "white", 10**7)(str(file))[:, 12, 12].tolist() == pytest.approx(
        [200, 100, 50], abs=6
    )
    assert image_size(str(file)) == ((1024, 1024) if format == "ICNS" else (64, 64))


@pytest.mark.parametrize("format", ["EPS", "PDF"])
def test_decoders_that_call_programs_are_off(read: ImageReader, encode: Encode, format: str) -> None:
    assert reason(read, encode(Image.new("RGB", (20, 20)), format)).startswith("not an image but ")


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000", "PPM", "ICO", "TGA", "QOI", "PCX", "ICNS"])
def test_the_header_is_checked_in_every_format(encode: Encode, format: str) -> None:
    data = encode(Image.new("RGB", (64, 64)), format)
    assert "data.max_pixels=1000" in reason(ImageReader(8, "squash", "white", 1000), data)


def test_an_image_within_an_icon_is_checked_before_it_is_decoded(encode: Encode) -> None:
    inner = encode(Image.new("L", (3000, 3000)), "PNG")[:1000]
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    assert "more pixels than data.max_pixels=1000000" in reason(ImageReader(8, "squash", "white", 1_000_000), icon)


def heic(brand: bytes = b"heic") -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(100)


KINDS: list[tuple[bytes, str]] = [
    (b"<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
    (b"\xef\xbb\xbf\r\n<HTML><head>", "an HTML page"),
    (b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n<html></html>", "an HTML page"),
    (b"<?xml version='1.0'?><!-- a --><svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "error message"),
    (b"<?xml version='1.0'?><rss/>", "an XML document"),
    (b'{"error": "not found"}', "JSON text"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git lfs pull"),
    (b"/annex/objects/SHA256E-s1--a.jpg\n", "git annex get"),
    (b"../.git/annex/objects/Gx/1/a.jpg", "git annex get"),
    (b"L\0\0\0\x01\x14\x02\0" + bytes(60), "a Windows shortcut"),
    (b"[InternetShortcut]\r\nURL=http://a/", "a link to a web page"),
    (gzip.compress(b"a", mtime=0), "a gzip archive"),
    (b"PK\x03\x04" + bytes(30), "a ZIP archive"),
    (b"%PDF-1.7\n", "a PDF document"),
    (b"8BPS\0\1" + bytes(30), "a Photoshop document"),
    (bytes(500), "500 zero bytes"),
    (b" \r\n ", "blanks alone"),
    (heic(), "pip install pillow-heif"),
    (heic(b"mif1"), "pip install pillow-heif"),
    (b"\xff\x0a" + bytes(30), "pip install pillow-jxl-plugin"),
    (struct.pack(">I", 24) + b"ftypisom" + bytes(100), "a video"),
    (b"\x89PNG\n\x1a\n" + bytes(30), "line ends were converted"),
    (b"\xef\xbf\xbdPNG\r\n", "saved as text"),
    (b"\x93NUMPY" + bytes(30), "a NumPy array"),
    (b"Not Found\n", "the text 'Not Found'"),
    ("<!doctype html><p>".encode("utf-16"), "an HTML page"),
    (b"\x80\x04\x95 pickled", "it begins with b'\\x80\\x04\\x95 pick'"),
    (b"\xff\xd8\xff\xe0", "JPEG"),
]


@pytest.mark.parametrize(("data", "named"), KINDS)
def test_what_is_no_image_is_named(read: ImageReader, data: bytes, named: str) -> None:
    assert named in reason(read, data)


def test_base64_text_is_named(read: ImageReader, encode: Encode) -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        text = base64.b64encode(encode(MIXED, form))
        for data in (text, text[:76] + b"\n" + text[76:], b"data:image/png;base64," + text):
            assert reason(read, data) == "not an image but an image as base64 text; decode it"


def test_a_link_to_nowhere_is_named(read: ImageReader, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("gone.jpg")
    (tmp_path / "b.jpg").symlink_to(".git/annex/objects/x/b.jpg")
    assert reason(read, str(tmp_path / "a.jpg")).endswith(" is a link to gone.jpg, which does not exist")
    assert reason(read, str(tmp_path / "b.jpg")).endswith("type git annex get")


def test_an_installed_plugin_of_pillow_is_used(read: ImageReader, monkeypatch: pytest.MonkeyPatch) -> None:
    class Heif(PngImagePlugin.PngImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._mode, self._size = "RGB", (30, 20)
            self.im = Image.core.new("RGB", (30, 20))

        def load(self) -> None:
            pass

    plugin = types.ModuleType("pillow_heif")
    plugin.register_heif_opener = lambda: Image.register_open("HEIF", Heif)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))  # `register_open` adds to both
    assert read(heic()).sum() == 0
    assert image_size(heic()) == (30, 20)


def test_lab_and_cmyk_colours_of_tiff(read: ImageReader) -> None:
    def tiff(image: Image.Image) -> bytes:
        stream = io.BytesIO()
        image.save(stream, "TIFF")
        return stream.getvalue()

    assert read(tiff(Image.new("LAB", (20, 20), (255, 128, 128))))[:, 5, 5].tolist() == pytest.approx([255] * 3, abs=3)
    assert read(tiff(Image.new("LAB", (20, 20), (138, 208, 195))))[:, 5, 5].tolist() == pytest.approx(
        [251, 9, 11], abs=3
    )
    assert read(tiff(Image.new("CMYK", (20, 20), (0, 255, 255, 0))))[:, 5, 5].tolist() == [255, 0, 0]
