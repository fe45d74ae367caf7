"""`Index`: rows that are found by what is like them.

index = mmft.load("last").index(rows, "my_index")
index.search("a red heart", top=5)
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from mmft.config.schema.data import DataConfig
from mmft.config.wording import listed
from mmft.data.images.image import background_of, drafts
from mmft.data.images.squares import squaring
from mmft.data.job_cache import stamp
from mmft.data.splitting.splits import Split
from mmft.data.table import Table
from mmft.errors import UserError
from mmft.files import replace_folder, settled
from mmft.run.index.folder import FACTS, Facts, Kind, Shown, Space, read_facts, unit, why_none, write_index
from mmft.run.index.nearest import nearest
from mmft.run.index.queries import given_queries
from mmft.run.saved_model import SavedModel

log = logging.getLogger(__name__)
Find = Literal["image", "text", "fused"]
COLUMNS: dict[str, Any] = {
    "query": int,
    "query_id": str,
    "rank": int,
    "row": int,
    "id": str,
    "score": float,
    "image": str,
    "text": str,
    "error": str,
}
"""The columns of what is found, and whether each holds integers, texts or numbers."""
_ONE = {"image": "an image", "text": "a text", "fused": "both"}
_AT_ONCE = 256  # queries that are compared together
_FEW = 2_000  # queries that are read sooner than processes to read them start


class Embeds(Protocol):
    """A finished model, as far as an index needs it: a `LoadedModel`."""

    saved: SavedModel

    @property
    def embedded(self) -> dict[str, int]:
        """Widths of the embeddings by name."""

    def embeddings(self, split: Split, config: DataConfig) -> Iterator[dict[str, Any]]:
        """`row`, `id`, `error` and (D,) arrays by name of each row."""


class Index:
    """Rows that a model has embedded, in a folder.

    Args:
        model: that made the index.
        folder: of the index.

    Attributes:
        facts: what it holds.
        shown: what there is to show of the rows.

    Raises:
        UserError: there is no index, it is damaged, or another model made it.
    """

    def __init__(self, model: Embeds, folder: str | Path) -> None:
        self.model, self.folder = model, Path(folder)
        self.facts = read_facts(self.folder)
        if self.facts.model != model.saved.digest:
            raise UserError(
                f"index={folder} was made by another model, whose embeddings cannot be compared with this one's. Type "
                "the run that made it, or make an index of this one with mmft index"
            )
        self.shown = Shown(self.folder)
        self._spaces = {name: Space(self.folder, name, self.facts.kind) for name in self.facts.widths}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def made(
        cls, model: Embeds, split: Split, data: DataConfig, folder: str | Path | None = None, kind: Kind = "exact"
    ) -> Index:
        """Embeds rows; if the folder has the index of these rows already, it is opened.

        Args:
            model: embeds the rows.
            split: all rows of a table.
            data: how they are read.
            folder: is written as a whole, or not at all; None for a temporary one.
            kind: `exact` or `approximate`.

        Raises:
            UserError: the folder has something else in it, or usearch is not installed.
        """
        temporary = tempfile.TemporaryDirectory(prefix="mmft-index-") if folder is None else None
        place = Path(folder) if temporary is None else Path(temporary.name) / "index"  # type: ignore[arg-type]
        _write(model, split, data, place, kind)
        index = cls(model, place)
        index._temporary = temporary  # deleted with the index
        return index

    def __len__(self) -> int:
        return self.facts.rows

    def search(
        self, query: Any, top: int = 10, find: Find | None = None, root: str | Path = "."
    ) -> list[dict[str, Any]]:
        """The rows that are most like a query, the most similar first.

        Args:
            query: a text, or an image; or several, as a list or a table. A text with the ending of an image file is
                its path; `{"text": "sunset.jpg"}` (by the run's column names) says that it is none.
            top: how many rows are found for each query.
            find: what of the rows is compared: `image`, `text` or, of both together, `fused`. None: what the query is
                not, an image for a text, if the model was trained to compare them; otherwise what the query is.
            root: base folder of relative image paths.

        Returns:
            A dict for each row found: `query` (its number), `query_id`, `rank` (from 1), `row`, `id`, `score` (the
            cosine), `image` (its path, or the bytes that the table holds), `text`, `error`; for one of several queries
            that cannot be used, one with an `error`.

        Raises:
            UserError: the only query cannot be used, or `top` or `find` is not one of what is allowed.
        """
        if not isinstance(top, int) or isinstance(top, bool) or top < 1:
            raise UserError(f"top: {top!r} given. Give a number of rows, at least 1")
        if find not in (None, *get_args(Find)):
            raise UserError(f"find: {find!r} given. Give {listed(get_args(Find))}, or None")
        split = given_queries(query, self.model.saved.config.data, Path(root))
        return list(self.found(split, self.model.saved.config.data, top, find))

    def found(self, queries: Split, data: DataConfig, top: int, find: Find | None) -> Iterator[dict[str, Any]]:
        """As `search`, for queries that are rows of a table, read as `data` says."""
        config = replace(data, num_workers=0) if len(queries) <= _FEW else data
        config = replace(config, columns=queries.table.columns)
        embedded = self.model.embeddings(queries, config)
        while some := list(islice(embedded, _AT_ONCE)):
            ways = [self._way(one, queries.table, find) for one in some]
            if len(queries) == 1 and isinstance(ways[0], str):
                raise UserError(f"query: {ways[0]}")
            hits = self._hits(some, ways, top)
            for at, (one, way) in enumerate(zip(some, ways, strict=True)):
                named = {"query": one["row"], "query_id": one["id"]}
                if isinstance(way, str):
                    yield dict.fromkeys(COLUMNS) | named | {"error": way}
                else:
                    yield from (dict.fromkeys(COLUMNS) | named | hit for hit in hits[at])

    def _way(self, query: dict[str, Any], table: Table, find: Find | None) -> tuple[str, str] | str:
        """Which embedding of the query is compared with which of the rows; or why none can be."""
        if (wrong := why_none(query)) is not None:
            return wrong
        there = {"image": table.image(query["row"]), "text": table.text(query["row"])}
        has = [name for name, value in there.items() if value is not None]
        pairwise = self.model.saved.task.facts.pairwise
        found = _compared(has, find, pairwise, [name for name, space in self._spaces.items() if len(space.rows)])
        if isinstance(found, str):
            return found
        by, find_ = found
        if by not in self._spaces:
            return (
                f"the run's fusion reads image and text together, so that {_ONE[by]} alone has no embedding. Search "
                "with an image and a text, or type find=fused"
            )
        if not len(self._spaces[find_].rows):
            return f"no row of the index has {_ONE[find_]}. Leave find={find_} out"
        return by, find_

    def _hits(
        self, queries: Sequence[dict[str, Any]], ways: Sequence[tuple[str, str] | str], top: int
    ) -> dict[int, list[dict[str, Any]]]:
        """What is found for the queries that can be used, by their places."""
        hits: dict[int, list[dict[str, Any]]] = {}
        for way in {way: None for way in ways if not isinstance(way, str)}:
            by, find = way
            places = [at for at, one in enumerate(ways) if one == way]
            space = self._spaces[find]
            vectors = unit(np.stack([queries[at][by] for at in places]))
            rows, scores = nearest(space.vectors, vectors, top, space.graph)
            for at, near, score in zip(places, rows, scores, strict=True):
                hits[at] = self._told(space.rows[near], score)
        return hits

    def _told(self, places: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> list[dict[str, Any]]:
        found = zip(places.tolist(), scores.tolist(), strict=True)
        return [self.shown.row(at) | {"rank": rank, "score": score} for rank, (at, score) in enumerate(found, 1)]


def _compared(has: list[str], find: Find | None, pairwise: bool, indexed: list[str]) -> tuple[str, str] | str:
    """The names of the query's and the rows' embeddings; or why they cannot be compared.

    Args:
        has: of `image` and `text`, what the query has.
        find: as typed.
        pairwise: images and texts have one space.
        indexed: the embeddings that rows of the index have.
    """
    other = {"image": "text", "text": "image"}
    if pairwise and find == "fused":
        return "the run compares images with texts. Type find=image or find=text"
    if pairwise and len(has) == 2:
        if find is None:
            return "it has an image and a text. Type find=image to search by the text, or find=text by the image"
        return other[find], find
    if pairwise:
        by = has[0]
        return by, find or (other[by] if other[by] in indexed else by)
    by = has[0] if len(has) == 1 else "fused"
    if find in (None, by):
        return by, by
    if find == "fused" or find in has:
        return find, find
    return (
        f"the run was not trained to compare images with texts, so that {_ONE[by]} cannot find {_ONE[find]}. Type "
        f"find={by}, or search with a run of task=contrastive or a model.pair"
    )


def _write(model: Embeds, split: Split, data: DataConfig, folder: Path, kind: Kind) -> None:
    """Writes the index, unless the folder has it."""
    contents = _contents(split.table, data)
    if (there := settled(folder)) is not None and any(there.iterdir()):
        if not (there / FACTS).is_file():
            raise UserError(f"out={folder} has other files in it. Type out=FOLDER with a new name")
        if _is_the_same(folder, model, contents, kind):
            log.info("the index of these rows is there already")
            return
        log.info("the index in %s is replaced", folder)
    facts = {"model": model.saved.digest, "contents": contents, "widths": model.embedded}
    written: list[Facts] = []
    replace_folder(
        folder,
        lambda new: written.append(write_index(new, split.table, model.embeddings(split, data), kind, facts)),
    )
    log.info("%d rows, %d of them with an error", written[0].rows + written[0].bad, written[0].bad)


def _is_the_same(folder: Path, model: Embeds, contents: str, kind: Kind) -> bool:
    try:
        there = read_facts(folder)
    except UserError:
        return False
    return (there.model, there.contents, there.kind) == (model.saved.digest, contents, kind)


def _contents(table: Table, data: DataConfig) -> str:
    """Identifies rows and how they are read: equal only if every id, text and image is, a file by its time and size."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((squaring(data), background_of(data), drafts(data), data.max_pixels)).encode())
    texts = table.texts(np.arange(len(table)))
    for row, text in enumerate(texts):
        image = table.image(row)
        held = hashlib.blake2b(image).hexdigest() if isinstance(image, bytes) else image and stamp(image)
        digest.update(repr((table.id(row), held, text)).encode())
    return digest.hexdigest()
