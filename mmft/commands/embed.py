"""`mmft embed run=RUN data.path=FILE out=FILE`: embeddings of every row's image and text, in row order."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mmft.commands.answers_file import Counted, write_parquet
from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.root import EmbedConfig
from mmft.errors import ExitCode
from mmft.files import located, written_aside
from mmft.run.by_row import stacked
from mmft.run.given_run import model_and_rows

Row = dict[str, Any]


def embed(composed: Composed) -> int:
    """Embeds all rows of a table.

    Returns:
        The exit code. Bad rows are not a failure: they have an `error` and no embedding.

    Raises:
        UserError: there is no such run, or the table is unusable.
    """
    config: EmbedConfig = composed.config
    model, data, split = model_and_rows(composed)
    rows = Counted(model.embeddings(split, data))
    write = _write_npz if Path(config.out).suffix.lower() == ".npz" else _write_parquet
    write(located(config.out), model.embedded, rows)
    rows.log()
    print_path(located(config.out))
    return ExitCode.DONE


def _write_parquet(out: Path, widths: dict[str, int], rows: Iterable[Row]) -> None:
    """Columns `row`, `id`, a list of float32 per embedding (null if missing), `error`."""
    import pyarrow as pa

    lists = [(name, pa.list_(pa.float32(), width)) for name, width in widths.items()]
    schema = pa.schema([("row", pa.int64()), ("id", pa.string()), *lists, ("error", pa.string())])
    write_parquet(out, schema, rows)


def _write_npz(out: Path, widths: dict[str, int], rows: Iterable[Row]) -> None:
    """Arrays `row` (R,), `id` (R,), `error` (R,), and (R, D) float32 per embedding."""
    every = list(rows)
    arrays: dict[str, Any] = {name: np.array([row[name] or "" for row in every], dtype=str) for name in ("id", "error")}
    arrays |= {"row": np.array([row["row"] for row in every]), **stacked(every, widths)}
    with written_aside(out) as new, new.open("wb") as stream:
        np.savez(stream, **arrays)
