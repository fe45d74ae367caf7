"""Rows as clients send them, and what a finished model makes of them.

No text of a client is ever taken for a path or an address: an image is base64 or a `data:` URL, or an uploaded file.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmft.config.schema.data import ColumnsConfig, DataConfig
from mmft.config.schema.decoding import DecodingConfig
from mmft.config.schema.root import AnswerConfig
from mmft.config.wording import did_you_mean, listed
from mmft.data.roles import is_template, roles
from mmft.data.sources.raw import is_unicode
from mmft.data.splitting.splits import Split, inputs_only, whole
from mmft.errors import MmftError, UserError
from mmft.run.given_rows import table_from
from mmft.run.index.index import Index
from mmft.run.loaded_model import LoadedModel
from mmft.tasks.labels import text_of

log = logging.getLogger(__name__)
Row = dict[str, Any]
Answer = dict[str, Any]
Compute = Callable[[Split, DataConfig], Iterator[Answer]]


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(stream, "PNG")
    return stream.getvalue()


_GREY = _png()


class UnreadableRow(ValueError):
    """A row that is not sent to the model; the message says why."""


class RowReader:
    """Reads single rows.

    Args:
        columns: the roles of columns.

    Attributes:
        names: the columns that a row may have.
        image: the column of images, if there is one.

    Raises:
        UserError: images are paths made of columns.
    """

    def __init__(self, columns: ColumnsConfig) -> None:
        if columns.image is not None and is_template(columns.image):
            raise UserError(
                f"data.columns.image={columns.image}: the run's images are paths made of columns, and no path of a "
                "client is opened. Type data.columns.image=image, the name under which clients send images"
            )
        self._roles = roles(columns, ())
        self.names = list(self._roles)
        self.image = columns.image

    def made_up(self) -> Row:
        """A row with a value in each column."""
        values = {"image": _GREY, "messages": [{"role": "user", "content": "a"}]}
        return {name: values.get(found[0], "a") for name, found in self._roles.items()}

    def row(self, given: Any) -> Row:
        """A row with all columns, null where there is nothing; images as encoded bytes.

        Args:
            given: a mapping from column to value; an image may be bytes.

        Raises:
            UnreadableRow: it is no mapping, has another column or none, or its image is no text in base64.
        """
        if not isinstance(given, Mapping):
            raise UnreadableRow(f"an object with the columns {listed(self.names)} is needed")
        for name in given:
            if name not in self.names:
                near = did_you_mean(name, self.names)
                raise UnreadableRow(f"no such column: {name:.100}.{near} Columns: {listed(self.names)}")
        row = dict.fromkeys(self.names) | dict(given)
        if all(value is None for value in row.values()):
            raise UnreadableRow(f"the row is empty. Columns: {listed(self.names)}")
        if self.image is not None:
            row[self.image] = _image(row[self.image], self.image)
        return row


def _image(given: Any, column: str) -> bytes | None:
    if given is None or (isinstance(given, bytes) and given):
        return given
    if given in ("", b""):
        raise UnreadableRow(f"{column}: no bytes; null stands for no image")
    if not isinstance(given, str):
        raise UnreadableRow(f"{column}: a text in base64 or a data: URL is needed")
    head, comma, body = given.partition(",") if given.startswith("data:") else ("", "", given)
    try:
        if head and not (comma and head.endswith(";base64")):
            raise ValueError
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableRow(
            f"{column}: neither base64 nor a data: URL in base64; paths and addresses are not opened"
        ) from None


@dataclass(frozen=True)
class Served:
    """What a model computes of rows.

    Attributes:
        reader: of the rows.
        columns: of an answer.
        data: how rows are read.
        compute: one answer per row, in order.
        merges: whether rows of several requests may be computed together.
    """

    reader: RowReader
    columns: list[str]
    data: DataConfig
    compute: Compute
    merges: bool = True

    def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """One answer per row, in order. Rows that fail together are computed one by one; one that fails has an `error`.

        Args:
            rows: of `RowReader.row`.
        """
        try:
            return list(self.compute(whole(table_from(list(rows), self.data, Path())), self.data))
        except Exception as error:  # noqa: BLE001 - told or logged by `why_failed`
            if len(rows) > 1:
                return [answer for row in rows for answer in self.answers([row])]
            return [self.unreadable(why_failed(error))]

    def warm_up(self) -> None:
        """Computes a made-up row, since the first one takes longest; raises what the model raises."""
        with suppress(UserError):  # a query is an image or a text, which is asked once both are embedded
            list(self.compute(whole(table_from([self.reader.made_up()], self.data, Path())), self.data))

    def answer(self, **values: Any) -> Answer:
        """An answer with these values, and null in the other columns."""
        return dict.fromkeys(self.columns) | values

    def unreadable(self, why: str) -> Answer:
        """The answer to a row that is not sent to the model."""
        return self.answer(error=why)

    def numbered(self, answers: Sequence[Answer], given: Sequence[Any]) -> list[Answer]:
        """The answers to a request's rows as JSON has them, with the numbers and ids of the request, not of a batch."""
        own = (self._id(row) for row in given)
        named = [
            answer | {"row": number, "id": str(number) if name is None else name}
            for number, (answer, name) in enumerate(zip(answers, own, strict=True))
        ]
        return [{key: plain(value) for key, value in answer.items()} for answer in named]

    def _id(self, given: Any) -> str | None:
        """A row's own id, None if it has none that can be used."""
        value = given.get(self.data.columns.id) if isinstance(given, Mapping) else None
        name = text_of(value) if isinstance(value, (str, int, float)) else None
        return name if name is not None and is_unicode(name) else None


def why_failed(error: Exception) -> str:
    """What a client is told of a row that cannot be computed; what is not meant for users is logged instead."""
    if isinstance(error, MmftError | UnreadableRow):
        return str(error)
    log.error("a row cannot be computed", exc_info=error)
    return "the row cannot be computed: an internal error"


def to_json(content: Any) -> bytes:
    """JSON in UTF-8, also of texts that are no valid Unicode, which a client may have sent: they are escaped."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def plain(value: Any) -> Any:
    """A value of an answer as JSON has it: arrays as lists, numbers that are not finite as null."""
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value.tolist()]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def predictions(model: LoadedModel, config: AnswerConfig, data: DataConfig) -> Served:
    """The predictions of `mmft predict`.

    Args:
        model: the command's.
        config: the command's, whose `zero_shot` is followed.
        data: how rows are read.

    Raises:
        UserError: `zero_shot` does not go with the run, or images are paths made of columns.
    """
    if config.zero_shot.labels is not None:
        data = replace(data, columns=replace(data.columns, text=None))
    empty = whole(table_from([], data, Path()))
    asked = model.asked(config.zero_shot, empty)
    task = asked.saved.config.task
    samples = isinstance(task, DecodingConfig) and task.temperature > 0  # what is drawn depends on the row's number
    return Served(RowReader(data.columns), asked.columns(), data, asked.answers, merges=not samples)


def embeddings(model: LoadedModel, data: DataConfig) -> Served:
    """The embeddings of `mmft embed`; arguments as for `predictions`."""
    return Served(RowReader(data.columns), ["row", "id", *model.embedded, "error"], data, model.embeddings)


def found_rows(index: Index, data: DataConfig, top: int) -> Served:
    """What `mmft search` finds for queries; their own rows are never among the index's.

    Args:
        index: is searched.
        data: how queries are read.
        top: rows for each query.
    """

    def compute(queries: Split, data: DataConfig) -> Iterator[Answer]:
        for number, hits in groupby(index.found(queries, data, top, None), itemgetter("query")):
            told = list(hits)
            error = told[0]["error"]
            shown = [{name: _sent(hit[name]) for name in _SHOWN} for hit in told] if error is None else None
            yield {"row": number, "id": told[0]["query_id"], "found": shown, "error": error}

    return Served(RowReader(data.columns), ["row", "id", "found", "error"], data, compute)


_SHOWN = ("rank", "row", "id", "score", "image", "text")


def _sent(value: Any) -> Any:
    return None if isinstance(value, bytes) else value  # an image that the index's table held has no path


def rows_config(data: DataConfig, batch_size: int) -> DataConfig:
    """How rows of clients are read: their inputs alone, in this process, so many at once."""
    columns = inputs_only(data.columns)
    if columns.id == columns.image:  # a path in tables, and bytes here
        columns = replace(columns, id=None)
    return replace(data, columns=columns, batch_size=batch_size, num_workers=0)
