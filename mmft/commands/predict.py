"""`mmft predict run=RUN data.path=FILE out=FILE`: one prediction per row, in row order."""

from __future__ import annotations

import base64
import csv
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from mmft.commands.output import print_path, utf8_stdout
from mmft.config.compose import Composed
from mmft.config.schema.data import names_of
from mmft.config.schema.root import PredictConfig
from mmft.config.wording import listed
from mmft.errors import ExitCode, UserError
from mmft.files import located, written_aside
from mmft.run.given_run import model_and_rows
from mmft.run.loaded_model import LoadedModel
from mmft.tasks.labels import text_of

log = logging.getLogger(__name__)
Answer = dict[str, Any]
Columns = dict[str, Any]
"""A prediction's columns, and whether each holds integers, text or numbers; the Arrow type of a kept column."""


def predict(composed: Composed) -> int:
    """Predicts all rows of a table.

    Returns:
        The exit code. Bad rows are not a failure: they have an `error` and no prediction.

    Raises:
        UserError: there is no such run, or the table is unusable.
    """
    config: PredictConfig = composed.config
    keep = None if config.keep == "all" else names_of(config.keep)
    model, data, split = model_and_rows(composed, keep)
    columns = _columns(model)
    kept = split.table.kept.types
    taken = [name for name in kept if name in columns]
    if taken and keep is None:
        log.warning("keep=all: %s of the table is left out, which is the name of a prediction's own", listed(taken))
        kept = {name: kind for name, kind in kept.items() if name not in taken}
    elif taken:
        raise UserError(
            f"keep={taken[0]}: the predictions have a column of this name. Rename the table's, or leave it out"
        )
    counted = Counted({**split.table.kept.row(answer["row"]), **answer} for answer in model.answers(split, data))
    writer(config.out)(config.out, columns | kept, counted)
    log.info("%d rows, %d of them with an error", counted.rows, counted.bad)
    if config.out != "-":
        print_path(located(config.out))
    return ExitCode.DONE


class Counted:
    """Counts predictions as they pass through."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._answers = answers
        self.rows = self.bad = 0

    def __iter__(self) -> Iterator[Answer]:
        for answer in self._answers:
            self.rows += 1
            self.bad += answer["error"] is not None
            yield answer


def _columns(model: LoadedModel) -> Columns:
    texts = {"id", "error", *model.saved.task.answer_texts}
    return {name: int if name == "row" else str if name in texts else float for name in model.columns()}


def writer(out: str) -> Callable[[str, Columns, Iterable[Answer]], None]:
    """The writer for a file's extension, which the config's validation has checked; `-` is CSV on stdout."""
    return {".jsonl": _write_jsonl, ".parquet": _write_parquet}.get(Path(out).suffix.lower(), _write_csv)


@contextmanager
def _opened(out: str) -> Iterator[TextIO]:
    """A text stream: stdout for `-`, else a temporary file that becomes `out`."""
    if out == "-":
        yield utf8_stdout()
        return
    with written_aside(located(out)) as new, new.open("w", newline="", encoding="utf-8") as stream:
        yield stream


def _write_csv(out: str, columns: Columns, answers: Iterable[Answer]) -> None:
    with _opened(out) as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _in_csv(value) for name, value in answer.items()} for answer in answers)


def _in_csv(value: Any) -> Any:
    """A list, an object or bytes of a kept column as JSON; other values as they are."""
    return json.dumps(value, ensure_ascii=False, default=_plain) if isinstance(value, (list, dict, bytes)) else value


def _write_jsonl(out: str, columns: Columns, answers: Iterable[Answer]) -> None:  # noqa: ARG001 - one signature
    with _opened(out) as stream:
        stream.writelines(json.dumps(answer, ensure_ascii=False, default=_plain) + "\n" for answer in answers)


def _plain(value: Any) -> Any:
    """A kept value that JSON lacks: bytes as base64, others as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else text_of(value)


def _write_parquet(out: str, columns: Columns, answers: Iterable[Answer]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {int: pa.int64(), str: pa.string(), float: pa.float32()}
    schema = pa.schema([(name, kinds.get(kind, kind)) for name, kind in columns.items()])
    with written_aside(located(out)) as new, parquet.ParquetWriter(new, schema) as writer:
        for some in batched(answers, 4096):  # one row group per chunk
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


def batched(answers: Iterable[Answer], size: int) -> Iterator[list[Answer]]:
    """Lists of at most `size` answers (itertools has this from Python 3.12)."""
    source = iter(answers)
    while some := list(islice(source, size)):
        yield some
