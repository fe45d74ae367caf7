"""Where the pair's images come from: Debian and npm packages of free drawings and photographs, unpacked, not installed.

Emoji are kept out, since the pair is judged on them. It is also judged on a sample of Open Clip Art: of that library,
only what is outside the sample is taken, see clip_art.py. Sets of icons in one colour are not taken: with five of them,
half of all images, the first projections found clip art less well (recall at 10 of 0.16 instead of 0.18 on its
validation rows).
Needs `apt-get`, `dpkg-deb` and `npm`.
"""

from __future__ import annotations

import json
import re
import struct
import subprocess
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from debian import unpacked
from distill.held_out import ClipArt

from pair.clip_art import outside

STAMPS, GCOMPRIS, WORDNET, COUNTRIES = "tuxpaint-stamps-default", "gcompris-qt-data", "wordnet-base", "iso-codes"
OPEN_CLIP_ART, SCRATCH = "openclipart-svg", "scratch"

# Debian package -> licence of its images
THEMES = {
    "oxygen-icon-theme": "LGPL-3+",
    "gnome-icon-theme": "GPL-2+ and GPL-3+",
    "mate-icon-theme": "LGPL-3+ or CC-BY-SA",
    "tango-icon-theme": "public domain",
    "gnome-icon-theme-gartoon": "GPL-2+",
    "gnome-icon-theme-nuovo": "GPL-2+",
    "gnome-icon-theme-yasis": "LGPL-2.1+",
    "faenza-icon-theme": "GPL-3",
    "elementary-xfce-icon-theme": "GPL-2+ and CC-BY-SA-3.0",
    "moka-icon-theme": "CC-BY-SA-4.0",
    "papirus-icon-theme": "GPL-3+",
    "lxde-icon-theme": "LGPL-3",
    "breeze-icon-theme": "LGPL-3+",
}
DEBIAN = {
    STAMPS: "Tux Paint stamps, GPL-2+ and public domain",
    GCOMPRIS: "GCompris, GPL-3+ and free licences that its copyright file lists",
    WORDNET: "WordNet 3.0 (free for any purpose, with its notice)",
    COUNTRIES: "iso-codes, LGPL-2.1+ (names of countries)",
    OPEN_CLIP_ART: "Open Clip Art 0.18, public domain",
    SCRATCH: "Scratch 1.4, whose images are CC-BY-SA-3.0",
    **THEMES,
}
# Sets of Iconify's JSON packages, drawings in colour first: set -> licence
COLOURED = {
    "flat-color-icons": "MIT",
    "fluent-color": "MIT",
    "streamline-ultimate-color": "CC-BY-4.0",
    "streamline-freehand-color": "CC-BY-4.0",
    "streamline-plump-color": "CC-BY-4.0",
    "icon-park": "Apache-2.0",
    "meteocons": "MIT",
    "circle-flags": "MIT",
    "flag": "MIT",
}
FLAGS = ("circle-flags", "flag")
EMOJI = {"twemoji": "CC-BY-4.0", "openmoji": "CC-BY-SA-4.0"}

SMALLEST_ICON = 48
_APPLICATIONS = {"apps", "panel"}  # their names are brands
_EMOJI = re.compile(r"emot|emoji|smiley|\bface\b|face-")


@dataclass(frozen=True)
class Drawing:
    """One image as a package holds it."""

    data: bytes
    svg: bool
    name: str  # the file's name without its ending
    kind: str  # photograph, drawing or icon
    description: str = ""  # a sentence, where the package has one
    categories: tuple[str, ...] = ()
    source: str = ""  # a few packages of one kind


def fetch_debian(package: str, work: Path) -> Path:
    """The folder of a Debian package, unpacked under `work/deb`."""
    return unpacked(package, work / "deb")


def fetch_icons(name: str, work: Path) -> Path:
    """The folder of one of Iconify's sets, unpacked under `work/npm`; one that is there is taken as it is.

    Raises:
        CalledProcessError: it could not be downloaded or unpacked.
    """
    folder = work / "npm" / f"iconify-json+{name}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", f"@iconify-json/{name}"]
        packed = subprocess.run(command, cwd=folder.parent, check=True, capture_output=True, text=True)
        archive = folder.parent / packed.stdout.split()[-1]
        part = folder.with_suffix(".part")
        part.mkdir()
        subprocess.run(["tar", "xzf", str(archive), "-C", str(part)], check=True)
        archive.unlink()
        part.rename(folder)
    return folder / "package"


def drawings(work: Path, sample: Sequence[ClipArt]) -> Iterator[Drawing]:
    """Every image of every package; emoji are left out by their names and folders.

    Args:
        work: where packages are unpacked.
        sample: rows of Open Clip Art that are left out.
    """
    sources = {
        "stamps": _stamps(work),
        "scratch": _scratch(work),
        "clip art": _clip_art(work, sample),
        "gcompris": _gcompris(work),
        "themes": _themes(work),
        "sets": _sets(work),
    }
    for source, found in sources.items():
        yield from (replace(d, source=source) for d in found if not _EMOJI.search(d.name.lower()))


def _clip_art(work: Path, sample: Sequence[ClipArt]) -> Iterator[Drawing]:
    root = fetch_debian(OPEN_CLIP_ART, work) / "usr/share/openclipart/svg"
    for found in outside(root, sample):
        name = found.title or found.path.stem
        yield Drawing(found.path.read_bytes(), True, name, "drawing", found.description, found.keywords)


def _scratch(work: Path) -> Iterator[Drawing]:
    root = fetch_debian(SCRATCH, work) / "usr/share/scratch/Media"
    for path in sorted(root.rglob("*")):
        folders = path.relative_to(root).parts[:-1]
        if path.suffix in (".png", ".gif", ".jpg") and "Letters" not in folders:
            kind = "photograph" if path.suffix == ".jpg" else "drawing"
            yield Drawing(path.read_bytes(), False, path.stem, kind, categories=folders[1:2])


def _stamps(work: Path) -> Iterator[Drawing]:
    root = fetch_debian(STAMPS, work) / "usr/share/tuxpaint/stamps"
    for path in sorted(root.rglob("*")):
        if path.suffix in (".png", ".svg") and not path.is_symlink():
            text = path.with_suffix(".txt")
            said = text.read_text(encoding="utf-8", errors="replace").splitlines()[:1] if text.is_file() else []
            kind = "drawing" if path.suffix == ".svg" or "cartoon" in path.as_posix() else "photograph"
            folders = path.relative_to(root).parts[:-1]
            yield Drawing(path.read_bytes(), path.suffix == ".svg", path.stem, kind, "".join(said), folders)


def _gcompris(work: Path) -> Iterator[Drawing]:
    for path in sorted(fetch_debian(GCOMPRIS, work).rglob("*.rcc")):
        for name, data in resources(path.read_bytes()):
            stem, _, suffix = name.rpartition("/")[2].rpartition(".")
            if suffix in ("svg", "png", "jpg", "webp"):
                kind = "photograph" if suffix in ("webp", "jpg") else "drawing"
                categories = name.split("/")[-2:-1] if "/categorization/" in name else ()
                yield Drawing(data, suffix == "svg", stem, kind, categories=tuple(categories))


def _themes(work: Path) -> Iterator[Drawing]:
    """The largest image of each icon of each theme, or its drawing."""
    for theme in THEMES:
        largest: dict[str, tuple[int, Path]] = {}
        for path in sorted((fetch_debian(theme, work) / "usr/share/icons").rglob("*")):
            parts = {part.lower() for part in path.parts}
            brands = _APPLICATIONS & parts and theme in ("papirus-icon-theme", "moka-icon-theme", "faenza-icon-theme")
            if path.suffix not in (".png", ".svg") or path.is_symlink() or brands or _EMOJI.search(path.as_posix()):
                continue
            if theme == "papirus-icon-theme" and re.match(r"folder-|user-", path.stem):  # each in twenty colours
                continue
            sizes = [int(found[1]) for part in path.parts if (found := re.fullmatch(r"(\d+)(?:x\d+)?", part))]
            side = 512 if path.suffix == ".svg" and not sizes else max(sizes, default=0)
            if side >= SMALLEST_ICON and "symbolic" not in parts:
                largest[path.stem] = max(largest.get(path.stem, (0, path)), (side, path))
        for _, path in sorted(largest.values()):
            yield Drawing(path.read_bytes(), path.suffix == ".svg", path.stem, "icon", categories=("computer icon",))


def _sets(work: Path) -> Iterator[Drawing]:
    countries = _countries(work)
    for name in COLOURED:
        for icon, svg, category in icons(fetch_icons(name, work)):
            if name in FLAGS:
                if country := countries.get(icon.removesuffix("-1x1")):
                    yield Drawing(svg, True, country, "drawing", f"The flag of {country}", ("flag",))
            elif not _is_variant(icon):
                yield Drawing(svg, True, icon, "drawing", categories=(category,))


def _countries(work: Path) -> dict[str, str]:
    """`dk` -> Denmark."""
    path = fetch_debian(COUNTRIES, work) / "usr/share/iso-codes/json/iso_3166-1.json"
    found = json.loads(path.read_text(encoding="utf-8"))["3166-1"]
    return {c["alpha_2"].lower(): c.get("common_name", c["name"]).split(",")[0] for c in found}


def _is_variant(icon: str) -> bool:
    """Whether another icon of the set shows the same in another line width or size."""
    return bool(re.search(r"-(outline|thin|light|bold|duotone|line|negative|24px|11|15|16|20|24|28|4x3|off)\b", icon))


def icons(package: Path) -> Iterator[tuple[str, bytes, str]]:
    """Name, SVG and category ("" where the set has none) of each icon of an unpacked set of Iconify's."""
    held = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    path = package / "metadata.json"
    categories = json.loads(path.read_text(encoding="utf-8")).get("categories", {}) if path.is_file() else {}
    category = {icon: group for group, members in categories.items() for icon in members}
    for name, icon in sorted(held["icons"].items()):
        if icon.get("hidden"):
            continue
        box = [icon.get(key, held.get(key, default)) for key, default in _BOX.items()]
        view = " ".join(map(str, box))
        svg = f'<svg xmlns="{_SVG}" xmlns:xlink="{_XLINK}" viewBox="{view}">{icon["body"]}</svg>'
        yield name, svg.encode(), category.get(name, "")


_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and contents of each file in one of Qt's binary resource files (`.rcc`).

    Raises:
        ValueError: not such a file.
    """
    if data[:4] != b"qres":
        raise ValueError("not a binary resource file of Qt: it does not start with 'qres'")
    version, tree, contents, names = struct.unpack_from(">4I", data, 4)
    node = 22 if version >= 2 else 14

    def walk(number: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + number * node
        name_at, flags = struct.unpack_from(">IH", data, at)
        (length,) = struct.unpack_from(">H", data, names + name_at)
        name = data[names + name_at + 6 : names + name_at + 6 + 2 * length].decode("utf-16-be") if number else ""
        if flags & 2:
            count, first = struct.unpack_from(">2I", data, at + 6)
            for child in range(first, first + count):
                yield from walk(child, f"{folder}{name}/")
        else:
            (begin,) = struct.unpack_from(">I", data, at + 10)
            (size,) = struct.unpack_from(">I", data, contents + begin)
            held = data[contents + begin + 4 : contents + begin + 4 + size]
            yield folder + name, zlib.decompress(held[4:]) if flags & 1 else held

    yield from walk(0, "")
