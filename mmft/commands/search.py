"""`mmft search run=RUN index=FOLDER query="a red heart"`: the rows that are most like a text or an image."""

from __future__ import annotations

from pathlib import Path

from mmft.commands.answers_file import writer
from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.data import DataConfig
from mmft.config.schema.search import SearchConfig
from mmft.data.splitting.splits import Split
from mmft.errors import ExitCode
from mmft.files import located, write_text
from mmft.run.given_run import model_and_data, model_and_rows
from mmft.run.index.index import COLUMNS, Index
from mmft.run.index.page import search_page
from mmft.run.index.queries import given_queries, read_queries


def search(composed: Composed) -> int:
    """Searches, and writes what is found.

    Returns:
        The exit code. Of several queries, one that cannot be used has an `error` and is no failure.

    Raises:
        UserError: there is no such run or index, the only query cannot be used, or a table is unusable.
    """
    config: SearchConfig = composed.config
    if config.index is None:
        model, data, split = model_and_rows(composed)
        index = Index.made(model, split, data)
    else:
        model, data = model_and_data(composed)
        index = Index(model, located(config.index))
    queries = _queries(config, data)
    found = index.found(queries, data, config.top, config.find)
    if Path(config.out).suffix.lower() == ".html":
        write_text(located(config.out), search_page(index, queries, found, data))
    else:  # an image that the table holds has no path
        rows = (row | {"image": None} if isinstance(row["image"], bytes) else row for row in found)
        writer(config.out)(config.out, COLUMNS, ({name: row[name] for name in COLUMNS} for row in rows))
    if config.out != "-":
        print_path(located(config.out))
    return ExitCode.DONE


def _queries(config: SearchConfig, data: DataConfig) -> Split:
    if config.queries is not None:
        return read_queries(config.queries, data)
    return given_queries(config.query, data, Path.cwd())
