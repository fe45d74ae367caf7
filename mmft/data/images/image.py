"""Reads one image: encoded bytes or a file -> uint8 tensor of a fixed square size.

Only the decoders of `kinds` are enabled; the size in the header is checked before anything is decoded. A damaged
image is read if all its pixels are there. Normalisation is left to the image encoder.
"""

from __future__ import annotations

import errno
import io
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageColor, UnidentifiedImageError

from mmft.batch.images import ImagesInPrompt, Pieces
from mmft.config.schema.data import DataConfig
from mmft.data.images.kinds import CONTAINERS, UNSIGNED, formats, why_unknown, with_plugin, without_preamble
from mmft.data.images.mending import JPEG, BadImage, check, check_jpeg_end, mended
from mmft.data.images.paths import why_missing
from mmft.data.images.pixels import to_rgb
from mmft.data.images.squares import Resample, Resize, Squaring, squared
from mmft.errors import UserError

_VERSION = 2
"""Of what is made of the same file and settings; images and features that are kept were made by one version."""
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def background_of(config: DataConfig) -> str:
    """The colour of `data.background`; that of a pair has been chosen before."""
    return config.background or "white"


def background_colour(config: DataConfig) -> tuple[int, ...]:
    """`background_of` as red, green and blue."""
    return ImageColor.getrgb(background_of(config))[:3]


def drafts(config: DataConfig) -> bool:
    """Whether large JPEGs are decoded at a reduced scale; what a pair or whole model wants has been chosen before."""
    return config.jpeg_draft is not False


class _Undecodable(BadImage):
    """Pillow cannot decode the bytes as they are."""


class ImageReader:
    """Callable `(source) -> (3, H, W) uint8` with H = W = `image_size`, or `(source) -> Pieces` of that image.

    Args:
        image_size: side of the resulting square, in pixels.
        resize: see `Squaring`.
        background: colour behind transparent pixels and of the bars, by name or `#rrggbb`.
        max_pixels: larger images, by their header, are not decoded.
        draft: whether JPEGs much larger than needed are decoded at a reduced scale.
        resample: see `Squaring`.
        crop_pct: see `Squaring`.
        pieces: cuts images of their own size, in place of making squares; None for squares.

    Raises:
        UserError: `background` is not a colour.
    """

    def __init__(
        self,
        image_size: int,
        resize: Resize,
        background: str,
        max_pixels: int,
        draft: bool = True,
        resample: Resample = "bicubic",
        crop_pct: float = 1.0,
        pieces: ImagesInPrompt | None = None,
    ) -> None:
        self.image_size, self.resize, self.max_pixels, self.pieces = image_size, resize, max_pixels, pieces
        self.draft, self.resample, self.crop_pct = draft, resample, crop_pct
        try:
            self.background = ImageColor.getrgb(background)[:3]
        except ValueError as error:
            raise UserError(f"data.background={background}: not a colour; give a name or #rrggbb") from error

    @property
    def facts(self) -> dict[str, Any]:
        """What the image depends on besides its file; for JSON."""
        facts = {**vars(self), "version": _VERSION}
        pieces = facts.pop("pieces")
        return facts if pieces is None else {**facts, "pieces": repr(pieces)}

    def __call__(self, source: str | bytes) -> Any:
        """Reads a file path or encoded bytes.

        Raises:
            BadImage: the image cannot be read, for any reason.
        """
        pixels = self.decoded(source)
        if self.pieces is not None:
            return self._cut(pixels)
        return squared(torch.from_numpy(pixels).permute(2, 0, 1), self.image_size, self._how, self.background)

    @property
    def _how(self) -> Squaring:
        return Squaring(self.resize, self.resample, self.crop_pct)

    def decoded(self, source: str | bytes) -> npt.NDArray[np.uint8]:
        """(h, w, 3) RGB, the upright image in its own size, or a large JPEG's reduced one.

        Raises:
            BadImage: it cannot be read, for any reason.
        """
        data = source if isinstance(source, bytes) else read_file(source)
        if not data:
            raise BadImage("empty file" if isinstance(source, str) else "no bytes")
        with _LOCK:
            return np.array(self._decode(without_preamble(data)))

    def _cut(self, pixels: npt.NDArray[np.uint8]) -> Pieces:
        assert self.pieces is not None
        try:
            return self.pieces.cut(pixels)
        except Exception as error:  # whatever a processor raises, for images that are far too long, say
            height, width = pixels.shape[:2]
            raise BadImage(f"{width} x {height} pixels, which the model's processor refuses: {error}") from error

    def _decode(self, data: bytes) -> Image.Image:
        """The upright RGB image; a large JPEG is decoded at a reduced scale."""
        check(data)
        try:
            image = self._load(data)
        except _Undecodable:
            whole = mended(data, self._load_in_full)
            if whole is None:
                raise
            image = self._load(whole)
        else:
            if data.startswith(JPEG):
                check_jpeg_end(data, image, self._load_in_full)
        with _failures(data):
            return _upright(to_rgb(image, self.background), image)

    def _load(self, data: bytes) -> Image.Image:
        return _load(data, self._check_size, self._draft, self.max_pixels)

    def _load_in_full(self, data: bytes) -> Image.Image:
        return _load(data, self._check_size, lambda _: None, self.max_pixels)

    def _check_size(self, image: Image.Image) -> None:
        width, height = image.size
        if width < 1 or height < 1:
            raise BadImage(f"{width} x {height} pixels")
        if width * height > self.max_pixels:
            raise BadImage(f"{width} x {height} pixels are more than data.max_pixels={self.max_pixels}")

    def _draft(self, image: Image.Image) -> None:
        """Lets the JPEG decoder downscale by 2, 4 or 8 if at least twice the target resolution remains."""
        if self.pieces is not None or not self.draft:
            return
        width, height = image.size
        kept = max(width, height) if self.resize == "pad" else min(width, height)
        scale = 2 * self._how.scaled(self.image_size) / kept
        if scale < 1:
            image.draft(None, (max(1, int(width * scale)), max(1, int(height * scale))))


def image_size(source: str | bytes) -> tuple[int, int]:
    """Width and height in pixels from the header of a file or of encoded bytes, without decoding.

    Raises:
        BadImage: it cannot be read.
    """
    data = without_preamble(source if isinstance(source, bytes) else read_file(source))
    with _LOCK, _failures(data):
        try:
            return _open(data).size
        except Exception:
            whole = mended(data, _open)
            if whole is None:
                raise
            return _open(whole).size


def _load(
    data: bytes, check_size: Callable[[Image.Image], None], prepare: Callable[[Image.Image], None], max_pixels: int
) -> Image.Image:
    """The first frame as stored; `prepare` is called between header and pixels.

    Raises:
        _Undecodable: Pillow cannot decode it.
        BadImage: its size is not allowed.
    """
    with _failures(data):
        try:
            image = _open(data, max_pixels)
            check_size(image)
            prepare(image)
            with _pixel_limit(max_pixels if image.format in CONTAINERS else None):
                image.load()
        except Image.DecompressionBombError:
            raise BadImage(f"an image in it has more pixels than data.max_pixels={max_pixels}") from None
        check_size(image)  # a GIF's first frame may exceed the size in its header
        return image


def _open(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """Reads the header; Pillow decodes some of `CONTAINERS` at once, hence `max_pixels` here."""
    for names, limit in ((formats(), None), (CONTAINERS, max_pixels)):
        with suppress(UnidentifiedImageError), _pixel_limit(limit):
            return Image.open(io.BytesIO(data), formats=names)
    with _pixel_limit(None):
        return Image.open(io.BytesIO(data), formats=(*with_plugin(data), *UNSIGNED))


@contextmanager
def _failures(data: bytes) -> Iterator[None]:
    """Turns whatever Pillow raises for `data` into `_Undecodable`."""
    try:
        yield
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise _Undecodable(why_unknown(data)) from None
    except Exception as error:
        # Pillow's plugins raise almost anything for damaged files (OSError, SyntaxError, struct.error, ...).
        raise _Undecodable(f"cannot be decoded: {str(error)[:100] or type(error).__name__}") from error


def read_file(path: str) -> bytes:
    """The file's content. Only regular files are opened: reading others could block forever.

    Raises:
        BadImage: it cannot be read.
    """
    try:
        file = Path(path)
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            raise BadImage("a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("not a regular file")
        return file.read_bytes()
    except PermissionError:
        raise BadImage("no permission to read the file") from None
    except BadImage:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if getattr(error, "errno", None) in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise BadImage(why_missing(path)) from None
        raise BadImage(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def _upright(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """`rgb` rotated by the EXIF orientation of `image`; unreadable EXIF data are ignored."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - the parser raises almost anything, and the pixels are fine
        return rgb
    return rgb if turn is None else rgb.transpose(turn)


_LOCK = threading.RLock()  # Pillow's limit is global


@contextmanager
def _pixel_limit(pixels: int | None) -> Iterator[None]:
    """Sets Pillow's own global limit, needed for images within images, whose size Pillow alone sees; None for no limit.

    Its warnings are silenced: of sizes within the limit, and of metadata on which no pixel depends.
    """
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None if pixels is None else pixels // 2  # Pillow raises above twice its limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
