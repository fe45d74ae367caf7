"""The folder of an index: embeddings of rows as memory-mapped arrays, and what there is to show of the rows.

    index.json            what the folder holds: of which model, of which rows
    rows.arrow            `row`, `id`, `image` (a path), `image_bytes` (where the table holds them), `text`
    image.npy             (R, D) float32 of length 1, of the R rows with an image; text.npy, fused.npy alike
    image_rows.npy        (R,) their places in rows.arrow
    image.usearch         the graph of kind=approximate
    bad_rows.csv          `row`, `id`, `error` of the rows that are left out
    checksums.json

Legend: R rows, D width.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmft.data.table import Table
from mmft.errors import UserError
from mmft.files import damage, seal, write_records
from mmft.run.index.nearest import made_graph, opened_graph

FACTS = "index.json"
_FORMAT = 1
_CHUNK = 4096  # rows of a batch of rows.arrow
_ROWS = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("image", pa.string()),
        ("image_bytes", pa.binary()),
        ("text", pa.string()),
    ]
)
Kind = Literal["exact", "approximate"]


@dataclass(frozen=True)
class Facts:
    """What an index holds.

    Attributes:
        kind: `exact` or `approximate`.
        model: identifies the model that made the embeddings.
        contents: identifies the rows and how they are read.
        rows: number of rows.
        bad: number of rows that are left out.
        widths: of the embeddings, by name.
    """

    kind: Kind
    model: str
    contents: str
    rows: int
    bad: int
    widths: Mapping[str, int]
    format: int = _FORMAT


def read_facts(folder: Path) -> Facts:
    """What the index in a folder holds.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not (folder / FACTS).is_file():
        raise UserError(f"{folder} is no index. Make one with mmft index run=RUN data.path=FILE out={folder}")
    if wrong := damage(folder, thorough=False):
        raise UserError(f"{wrong}. Delete the folder {folder} and make the index again with mmft index")
    try:
        facts = Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / FACTS} cannot be read ({error}). Make the index again with mmft index") from None
    if facts.format != _FORMAT:
        raise UserError(f"{folder} was written by another version of mmft. Make the index again with mmft index")
    return facts


class Space:
    """The embeddings of one name: `vectors` (R, D), `rows` (R,) places in rows.arrow, and a graph, if there is one."""

    def __init__(self, folder: Path, name: str, kind: Kind) -> None:
        self.vectors: npt.NDArray[np.float32] = np.load(folder / f"{name}.npy", mmap_mode="r")
        self.rows: npt.NDArray[np.int64] = np.load(folder / f"{name}_rows.npy", mmap_mode="r")
        graph = folder / f"{name}.usearch"
        self.graph = opened_graph(graph) if kind == "approximate" and len(self.rows) else None


class Shown:
    """What there is to show of the rows, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self._file = pa.ipc.open_file(pa.memory_map(str(folder / "rows.arrow")))

    def row(self, place: int) -> dict[str, Any]:
        """`row`, `id`, `image` (a path, or the bytes that the table holds) and `text` of one row."""
        batch = self._file.get_batch(place // _CHUNK)
        row: dict[str, Any] = batch.slice(place % _CHUNK, 1).to_pylist()[0]
        held = row.pop("image_bytes")
        return row if held is None else row | {"image": held}


def write_index(
    folder: Path, table: Table, embedded: Iterable[Mapping[str, Any]], kind: Kind, facts: Mapping[str, Any]
) -> Facts:
    """Writes the files of an index into an empty folder.

    Args:
        folder: is there, and empty.
        table: the rows.
        embedded: a dict per row in order: `row`, `id`, `error`, and (D,) or None by name of `facts["widths"]`.
        kind: `exact` or `approximate`.
        facts: `model`, `contents` and `widths` of `Facts`.
    """
    bad: list[dict[str, Any]] = []
    with ExitStack() as stack:
        files = {name: stack.enter_context(_Vectors(folder, name, width)) for name, width in facts["widths"].items()}
        sink = stack.enter_context(pa.OSFile(str(folder / "rows.arrow"), "wb"))
        writer = stack.enter_context(pa.ipc.new_file(sink, _ROWS))
        count = 0
        for some in _good(embedded, bad):
            for name, file in files.items():
                file.add([(count + at, one[name]) for at, one in enumerate(some) if one[name] is not None])
            writer.write_batch(_shown(table, [one["row"] for one in some]))
            count += len(some)
    if bad:
        write_records(folder / "bad_rows.csv", bad)
    if kind == "approximate":
        for name in files:
            if len(vectors := np.load(folder / f"{name}.npy", mmap_mode="r")):
                made_graph(vectors, folder / f"{name}.usearch")
    written = Facts(kind=kind, rows=count, bad=len(bad), **facts)
    (folder / FACTS).write_text(json.dumps(asdict(written), indent=2) + "\n", encoding="utf-8")
    seal(folder)
    return written


def _good(embedded: Iterable[Mapping[str, Any]], bad: list[dict[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Chunks of the rows that can be found; the others are added to `bad`."""
    some: list[Mapping[str, Any]] = []
    for one in embedded:
        error = why_none(one)
        if error is not None:
            bad.append({"row": one["row"], "id": one["id"], "error": error})
            continue
        some.append(one)
        if len(some) == _CHUNK:
            yield some
            some = []
    if some:
        yield some


def why_none(one: Mapping[str, Any]) -> str | None:
    """Why a row cannot be searched for or found, from its embeddings; None if it can."""
    if one["error"] is not None:
        return str(one["error"])
    vectors = [value for value in one.values() if isinstance(value, np.ndarray)]
    return None if all(np.isfinite(value).all() for value in vectors) else "its embedding is not finite"


def _shown(table: Table, rows: list[int]) -> pa.RecordBatch:
    images = [table.image(row) for row in rows]
    columns = [
        rows,
        [table.id(row) for row in rows],
        [image if isinstance(image, str) else None for image in images],
        [image if isinstance(image, bytes) else None for image in images],
        table.texts(np.array(rows, dtype=np.int64)),
    ]
    return pa.record_batch([pa.array(column, field.type) for column, field in zip(columns, _ROWS, strict=True)], _ROWS)


class _Vectors:
    """Appends rows to `NAME.npy`, of a number that is known only at the end, and their places to `NAME_rows.npy`."""

    def __init__(self, folder: Path, name: str, width: int) -> None:
        self._folder, self._name, self._width = folder, name, width
        self._places: list[npt.NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        self._count = 0
        self._stream: IO[bytes]

    def __enter__(self) -> _Vectors:
        self._stream = (self._folder / f"{self._name}.npy").open("wb")
        self._write_header()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.seek(0)
        self._write_header()
        self._stream.close()
        np.save(self._folder / f"{self._name}_rows.npy", np.concatenate(self._places))

    def _write_header(self) -> None:
        """Of the number of rows so far; its length is the same for any number: numpy leaves room for it to grow."""
        shape = (self._count, self._width)
        header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._stream, header)

    def add(self, rows: list[tuple[int, npt.NDArray[np.float32]]]) -> None:
        """Appends rows by their places, at length 1."""
        if not rows:
            return
        values = unit(np.stack([vector for _, vector in rows]))
        values.tofile(self._stream)
        self._places.append(np.array([place for place, _ in rows], dtype=np.int64))
        self._count += len(rows)


def unit(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """(R, D) at length 1; zeros stay."""
    values = vectors.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    directions: npt.NDArray[np.floating[Any]] = values / np.where(lengths > 0, lengths, 1)
    return directions.astype(np.float32)
