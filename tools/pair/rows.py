"""Collects the rows that the pair learns from, and the emoji that it is judged on.

    python tools/pair/rows.py OUT --clipart ../shared/data/clipart

Needs Pillow, NumPy, PyArrow and resvg_py, and the registries of Debian (after `apt-get update`) and npm. Writes

    OUT/rows.parquet   image (JPEG bytes, 112 pixels), title, label (photograph, drawing, icon), split, group, source
    OUT/emoji.parquet  image, title, label (the emoji's group), set

The clip-art sample is a part of Open Clip Art, of which the rest is among the sources. Of that library no drawing of
the sample and none with a title of the sample is taken; of all sources, no image that looks like one of the sample.
apart.py has a second look at that. Each image has a few rows: its names, a templated one ("a drawing of a dog"), by
WordNet what it is a kind of ("a drawing of a mammal"), and its categories and keywords.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from distill.held_out import read_clipart

from pair.clip_art import folded
from pair.images import ALIKE, SAME, Seen, difference_hash, jpeg, opened
from pair.names import WordNet, caption_of, sentence, templated, words_of
from pair.sources import EMOJI, WORDNET, Drawing, drawings, fetch_debian, fetch_icons, icons

MOST_OF_A_WORD = 60  # images whose name begins with one word: folders, arrows and stars would outnumber the rest
MOST_NAMES, MOST_KINDS, MOST_CATEGORIES = 3, 2, 3
VAL = 0.04
_SKIN = re.compile(r"-skin-tone|-(light|medium|dark)\b")


@dataclass
class Found:
    """One image of the table."""

    jpeg: bytes
    kind: str
    source: str
    names: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--clipart", type=Path, required=True, help="folder of the clip-art rows' manifest.csv")
    parser.add_argument("--sources", type=Path, help="where packages are unpacked (default: OUT/src)")
    given = parser.parse_args()
    work = given.sources or given.out / "src"
    given.out.mkdir(parents=True, exist_ok=True)
    wordnet = WordNet(fetch_debian(WORDNET, work) / "usr/share/wordnet")
    hidden = Seen()
    sample = read_clipart(given.clipart.parents[1])
    for row in sample:
        image = opened(row.image.read_bytes(), svg=False)
        if image is not None and (code := difference_hash(image)) is not None:
            hidden.add(code)
    found = collect(drawings(work, sample), wordnet, hidden, {folded(row.title) for row in sample})
    rows = list(rows_of(found, wordnet))
    _write(given.out / "rows.parquet", ("image", "title", "label", "split", "group", "source"), rows)
    print("images:", dict(Counter(f.kind for f in found)), "rows:", dict(Counter(row[3] for row in rows)))
    emoji = list(emoji_rows(work))
    _write(given.out / "emoji.parquet", ("image", "title", "label", "set"), emoji)
    print("emoji:", dict(Counter((row[3], row[2]) for row in emoji)))


def collect(found: Iterator[Drawing], wordnet: WordNet, hidden: Seen, titles: Collection[str] = ()) -> list[Found]:
    """Each image once, with its names; one that looks like a hidden one is left out.

    Args:
        found: what the packages have.
        wordnet: says which words are words.
        hidden: hashes of the judged images.
        titles: of the judged images, folded; no image of Open Clip Art keeps a name that is one of them.
    """
    kept: list[Found] = []
    seen, begun, counted = Seen(), Counter[str](), Counter[str]()
    for drawing in found:
        caption = caption_of(drawing.name, wordnet.words)
        names = [name for name in (sentence(drawing.description), caption) if name]
        if drawing.source == "clip art" and any(folded(name) in titles for name in names):
            counted["titled like clip art"] += 1
            continue
        first = (caption or "").split(" ", 1)[0]
        limited = drawing.kind == "icon" or drawing.source == "clip art"
        if not names or (limited and begun[first] >= MOST_OF_A_WORD):
            continue
        image = opened(drawing.data, drawing.svg)
        code = None if image is None else difference_hash(image)
        if image is None or code is None:
            counted["unreadable or blank"] += 1
        elif hidden.nearest(code)[1] <= ALIKE:
            counted["like clip art"] += 1
        else:
            number, bits = seen.nearest(code)
            if bits > SAME:
                number = seen.count
                seen.add(code)
                kept.append(Found(jpeg(image), drawing.kind, drawing.source))
                begun[first] += 1
            held = kept[number].names
            held += [name for name in names if name not in held][: MOST_NAMES - len(held)]
            kept[number].categories += [" ".join(words) for words in map(words_of, drawing.categories) if words]
    print("left out:", dict(counted))
    return kept


def rows_of(found: list[Found], wordnet: WordNet) -> Iterator[tuple[bytes, str, str, str, str, str]]:
    """The rows of the table; all rows of an image share a group and a split."""
    for number, image in enumerate(found):
        chance = random.Random(number)
        split = "val" if chance.random() < VAL else "train"
        titles = [*image.names, templated(chance.choice(image.names), image.kind)]
        categories = list(dict.fromkeys(image.categories))
        kinds = wordnet.kinds_of(image.names[-1])
        kinds += [kind for category in categories for kind in wordnet.kinds_of(category) if kind not in kinds]
        groups = chance.sample(kinds, min(MOST_KINDS, len(kinds)))
        groups += chance.sample(categories, min(MOST_CATEGORIES, len(categories)))
        titles += [templated(group, image.kind) if chance.random() < 0.5 else group for group in groups]
        for title in dict.fromkeys(titles):
            yield image.jpeg, title, image.kind, split, str(number), image.source


def emoji_rows(work: Path) -> Iterator[tuple[bytes, str, str, str]]:
    """Emoji without their skin tones, for judging."""
    for name in EMOJI:
        for icon, svg, category in icons(fetch_icons(name, work)):
            wanted = category and not category.startswith("Extras") and not _SKIN.search(icon)
            image = opened(svg, svg=True) if wanted else None
            if image is not None:
                yield jpeg(image), icon.replace("-", " "), category.lower(), name


def _write(path: Path, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    table = pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)))
    pq.write_table(table, path, compression="zstd", row_group_size=1024)


if __name__ == "__main__":
    main()
