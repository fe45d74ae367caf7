"""The images that the image student learns from, as one array on disk.

Open Clip Art outside the held-out rows and what looks like them, stamps, emoji and icons; each once, by a
difference hash. They are squashed to a square over white, as mmft reads the sample's own.
"""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from distill.held_out import ClipArt, held_out

SIZE = 192
ICON_THEMES = ("oxygen-icon-theme", "gnome-icon-theme", "mate-icon-theme", "tango-icon-theme")
SMALLEST_ICON = 48
EMOJI_SIZE = 109  # the one size of the bitmaps in Noto Color Emoji
EMOJI_BLOCKS = (range(0x2600, 0x27C0), range(0x1F000, 0x1FB00))
HASH_SIDE = 16
SAME = 16  # of 256 bits


def collect(sources: dict[str, Path], clipart: list[ClipArt], work: Path) -> np.ndarray:
    """All images, (N, 192, 192, 3) uint8, in `work/images.npy`; made where it is not there.

    Args:
        sources: folders of the packages, by name.
        clipart: the rows of the sample; those of val and test, and their look-alikes, are left out.
        work: folder of the array.
    """
    path = work / "images.npy"
    if not path.is_file():
        hidden = held_out(clipart)
        ids = {row.id for row in hidden}
        seen = np.stack([difference_hash(squashed(Image.open(row.image))) for row in hidden])
        kept: list[np.ndarray] = []
        for image in _all(sources, ids):
            code = difference_hash(image)
            if code.sum() > 8 and (code ^ seen).sum(axis=1).min() > SAME:  # and not a blank one
                kept.append(image)
                seen = np.concatenate([seen, code[None]])
                if len(kept) % 1000 == 0:
                    print(f"images: {len(kept)}", flush=True)
        np.save(path.with_suffix(".part.npy"), np.stack(kept))
        path.with_suffix(".part.npy").rename(path)
    images: np.ndarray = np.load(path, mmap_mode="r")
    return images


def _all(sources: dict[str, Path], hidden: set[str]) -> Iterator[np.ndarray]:
    clipart = sources["openclipart-png"] / "usr/share/openclipart/png"
    files = [p for p in _files(clipart, ".png") if p.relative_to(clipart).with_suffix("").as_posix() not in hidden]
    files += [path for suffix in (".png", ".svg") for path in _files(sources["tuxpaint-stamps-default"], suffix)]
    for theme in ICON_THEMES:
        files += _icons(sources[theme])
    for path in files:
        if (image := _opened(path)) is not None:
            yield image
    yield from _emoji(sources["fonts-noto-color-emoji"])


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(p for p in folder.rglob(f"*{suffix}") if p.is_file() and not p.is_symlink())


def _icons(folder: Path) -> list[Path]:
    """The largest image of each icon, or its drawing."""
    largest: dict[str, tuple[int, Path]] = {}
    for path in _files(folder / "usr/share/icons", ".png") + _files(folder / "usr/share/icons", ".svg"):
        sizes = [int(part.split("x")[0]) for part in path.parts if re.fullmatch(r"(\d+)x\1", part)]
        side = sizes[0] if sizes else 512 * (path.suffix == ".svg")
        if side >= SMALLEST_ICON:
            largest[path.stem] = max(largest.get(path.stem, (0, path)), (side, path))
    return [path for _, path in sorted(largest.values())]


def _opened(path: Path) -> np.ndarray | None:
    try:
        if path.suffix == ".svg":
            command = ["rsvg-convert", "-w", "256", "-h", "256", str(path)]
            png = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
            return squashed(Image.open(io.BytesIO(png)))
        return squashed(Image.open(path))
    except (OSError, subprocess.SubprocessError, Image.DecompressionBombError):
        return None


def _emoji(package: Path) -> Iterator[np.ndarray]:
    (path,) = package.rglob("NotoColorEmoji.ttf")
    font = ImageFont.truetype(str(path), EMOJI_SIZE)
    for code in (code for block in EMOJI_BLOCKS for code in block):
        canvas = Image.new("RGBA", (136, 128))
        ImageDraw.Draw(canvas).text((0, 0), chr(code), font=font, embedded_color=True)
        if canvas.getbbox():
            yield squashed(canvas)


def squashed(image: Image.Image) -> np.ndarray:
    """Any image -> (192, 192, 3) uint8 over white."""
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def difference_hash(image: np.ndarray) -> np.ndarray:
    """(256,) bool: whether each cell of a 16 x 16 grid is brighter than its right neighbour."""
    grey = Image.fromarray(image).convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    cells = np.asarray(grey, np.int16)
    return (cells[:, :-1] > cells[:, 1:]).ravel()
