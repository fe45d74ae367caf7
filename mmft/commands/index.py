"""`mmft index run=RUN data.path=FILE out=FOLDER`: embeds rows once, to search among them."""

from __future__ import annotations

from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.search import IndexConfig
from mmft.errors import ExitCode
from mmft.files import located
from mmft.run.given_run import model_and_rows
from mmft.run.index.index import Index


def index(composed: Composed) -> int:
    """Writes an index, unless it is there, and prints its folder.

    Returns:
        The exit code. Bad rows are not a failure: they are listed in `bad_rows.csv` and left out.

    Raises:
        UserError: there is no such run, the table is unusable, the folder has something else in it, or usearch is
            missing.
    """
    config: IndexConfig = composed.config
    model, data, split = model_and_rows(composed)
    made = Index.made(model, split, data, located(config.out), config.kind)
    print_path(made.folder)
    return ExitCode.DONE
