"""The drawings of Open Clip Art 0.18 that are not in the judged sample, with what their authors wrote into the files.

The sample of `../shared/data/clipart` is a part of this library. A drawing is left out if its path or its title is one
of the sample's; rows.py and apart.py leave out what looks like an image of it. The sample's classes are folders of the
library, so no folder's name is used, and a keyword that equals one of the drawing's own folders is left out.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.held_out import ClipArt

COLLECTION = 3  # a title of more drawings than these is that of their collection
_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_WORD = re.compile(r"[^\W\d_]+")
_NO_KEYWORDS = {"hash", "unsorted", "theme", "icons", "magick", "clipart", "work", "special", "openclipart", "lemon"}
_NO_SENTENCE = re.compile(r"https?:|www\.|@|HASH\(|\bEPS\b|clip ?art|inkscape|svg", re.IGNORECASE)


@dataclass(frozen=True)
class Described:
    """A drawing's file and its metadata."""

    path: Path
    title: str
    description: str
    keywords: tuple[str, ...]


def outside(library: Path, sample: Sequence[ClipArt]) -> Iterator[Described]:
    """The drawings of the library's folder `svg` whose path and title are not in the sample, in the order of paths.

    A title that many drawings share says what collection they are from: it is "" here. So is a description that says
    how a file was made.
    """
    paths, titles = {row.id for row in sample}, {folded(row.title) for row in sample}
    files = [path for path in sorted(library.rglob("*.svg")) if not path.is_symlink()]
    found = [_described(path, library) for path in files]
    shared = Counter(folded(drawing.title) for drawing in found)
    for drawing in found:
        title = folded(drawing.title)
        identity = drawing.path.relative_to(library).with_suffix("").as_posix()
        collection = shared[title] > COLLECTION or " - " in drawing.title
        if identity not in paths and title not in titles and not (collection and folded(drawing.path.stem) in titles):
            own = "" if collection else drawing.title
            yield Described(drawing.path, own, drawing.description, drawing.keywords)


def folded(title: str) -> str:
    """A title by its letters and digits alone: "Dog_01 (brown)" -> "dog01brown"."""
    return "".join(character for character in title.casefold() if character.isalnum())


def _described(path: Path, library: Path) -> Described:
    """Title, description and keywords as the file's Dublin Core has them, empty where it has none."""
    root = ET.fromstring(path.read_bytes())  # noqa: S314  a package of Debian
    work = next((node for node in root.iter() if node.tag.endswith("}Work")), None)
    if work is None:
        return Described(path, "", "", ())
    title, description = (" ".join(work.findtext(_DUBLIN_CORE + key, "").split()) for key in ("title", "description"))
    subject = work.find(_DUBLIN_CORE + "subject")
    said = [node.text or "" for node in subject.iter() if node.tag.endswith("}li")] if subject is not None else []
    folders = {folded(part) for part in path.relative_to(library).parts[:-1]}
    keywords = [" ".join(_WORD.findall(keyword.lower())) for keyword in said]
    kept = [k for k in keywords if k and k.split()[0] not in _NO_KEYWORDS and folded(k) not in folders]
    return Described(path, title, "" if _NO_SENTENCE.search(description) else description, tuple(dict.fromkeys(kept)))
