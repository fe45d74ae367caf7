"""`mmft predict run=RUN data.path=FILE out=FILE`: one prediction per row, in row order."""

from __future__ import annotations

import logging

from mmft.commands.answers_file import Columns, Counted, writer
from mmft.commands.output import print_path
from mmft.config.compose import Composed
from mmft.config.schema.data import names_of
from mmft.config.schema.root import PredictConfig
from mmft.config.wording import listed
from mmft.errors import ExitCode, UserError
from mmft.files import located
from mmft.run.given_run import model_and_rows
from mmft.run.loaded_model import LoadedModel

log = logging.getLogger(__name__)


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
    kept = split.table.passthrough.types
    taken = [name for name in kept if name in columns]
    if taken and keep is None:
        log.warning("keep=all: %s of the table is left out, which is the name of a prediction's own", listed(taken))
        kept = {name: kind for name, kind in kept.items() if name not in taken}
    elif taken:
        raise UserError(
            f"keep={taken[0]}: the predictions have a column of this name. Rename the table's, or leave it out"
        )
    counted = Counted({**split.table.passthrough.row(answer["row"]), **answer} for answer in model.answers(split, data))
    writer(config.out)(config.out, columns | kept, counted)
    counted.log()
    if config.out != "-":
        print_path(located(config.out))
    return ExitCode.DONE


def _columns(model: LoadedModel) -> Columns:
    texts = {"id", "error", *model.saved.task.answer_texts}
    return {name: int if name == "row" else str if name in texts else float for name in model.columns()}
