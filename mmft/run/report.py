"""`report.html`: the page of a run, and the predictions that it shows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mmft.data.splitting.splits import load_splits
from mmft.errors import UserError
from mmft.files import write_text
from mmft.reports.page.evidence import config_of
from mmft.reports.page.run_page import run_page
from mmft.run.logged_not_raised import logged_not_raised
from mmft.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """A page that was written; notebooks show it.

    Attributes:
        path: of the file.
    """

    path: Path

    def _repr_html_(self) -> str:
        page = escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40rem; border: 0"></iframe>'


def write_report(folder: RunFolder) -> Report:
    """Writes the page of a run.

    Raises:
        UserError: the folder is no run's, or needs plugins that are not allowed.
    """
    path = folder.report
    write_text(path, run_page(folder))
    return Report(path)


def complete_predictions(folder: RunFolder, accelerator: str = "auto", attributions: int | None = None) -> None:
    """Predicts and explains test rows if the run has a model but no predictions.csv; tells why it cannot.

    Args:
        folder: the run's.
        accelerator: `auto`, `cpu` or `gpu`.
        attributions: rows to explain anew, also if there are predictions; None: as in the run's config, if there are
            none.
    """
    there = any(folder.path.glob("predictions*.csv"))
    if not folder.model.is_dir() or (there and attributions is None):
        return
    from mmft.run.attributions_file import attributed_rows, write_attributions
    from mmft.run.loaded_model import load  # imports what a page alone does not need, for seconds
    from mmft.run.predictions_file import write_predictions

    try:
        config = config_of(folder)
        splits = load_splits(config.data, config.seed)
        model = load(folder.path, accelerator=accelerator)
        if not there:
            write_predictions(folder.path, model, splits, config.data)
    except UserError as error:
        log.warning("the report is made without predictions: %s", error)
        return
    with logged_not_raised("explaining predictions for the report"):
        write_attributions(folder, model, attributed_rows(config) if attributions is None else attributions)
