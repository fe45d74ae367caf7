"""A run as a trial of a search: reports to the study during training and reads its decisions.

The sweep leaves `trial.json` in the run folder, by which the run's first rank, in whatever process, finds the study.
optuna is imported only for trials.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.files import write_text

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import RDBStorage

NAME = "mmft"
"""Name of the study in its file."""
_FILE = "trial.json"
_LOCKED = 120.0  # seconds to wait for other writers

log = logging.getLogger(__name__)


def open_storage(file: Path) -> RDBStorage:
    """Opens the SQLite file of a study; created if missing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    arguments = {"connect_args": {"timeout": _LOCKED}}
    return optuna.storages.RDBStorage(f"sqlite:///{file.absolute()}", engine_kwargs=arguments)


def make_pruner(name: str, startup_trials: int, warmup_epochs: int, max_epochs: int, per_epoch: int = 1) -> BasePruner:
    """Builds the pruner `none`, `median` or `hyperband`; it counts epochs, or `per_epoch` reports in each."""
    import optuna

    if name == "median":
        return optuna.pruners.MedianPruner(startup_trials, warmup_epochs * per_epoch)
    if name == "hyperband":
        least = warmup_epochs + 1
        return optuna.pruners.HyperbandPruner(least * per_epoch, max(max_epochs, least) * per_epoch)
    return optuna.pruners.NopPruner()


def mark_as_trial(folder: Path, study: Path, number: int, pruner: dict[str, Any]) -> None:
    """Marks the run in `folder` as trial `number` of the study in the file `study`.

    Args:
        folder: the run's.
        study: a file in the parent folder.
        number: the trial's number in the study.
        pruner: the arguments of `make_pruner`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {"study": f"../{study.name}", "number": number, "pruner": pruner}
    write_text(folder / _FILE, json.dumps(record, indent=2) + "\n")


def is_trial(folder: Path) -> bool:
    """Whether a run is a trial of a search."""
    return (folder / _FILE).is_file()


class Trial:
    """One trial, from the run's side.

    Args:
        folder: the run's, with the file that `mark_as_trial` wrote.
        reports_per_epoch: what an epoch counts in `report`: 1, or its optimizer steps.
    """

    def __init__(self, folder: Path, reports_per_epoch: int = 1) -> None:
        import optuna

        record = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        self.number = int(record["number"])
        self._storage = open_storage(folder / record["study"])
        pruner = make_pruner(**record["pruner"], per_epoch=reports_per_epoch)
        self._study = optuna.load_study(study_name=NAME, storage=self._storage, pruner=pruner)
        found = next(trial for trial in self._study.get_trials(deepcopy=False) if trial.number == self.number)
        self._trial = optuna.trial.Trial(self._study, found._trial_id)
        self._over = found.state.is_finished()
        self._reported = set(found.intermediate_values)
        if self._over:
            log.info("this trial has already ended; the study gets no further reports")

    def report(self, value: float, at: int) -> bool:
        """Reports a validation; returns whether the trial is pruned.

        Args:
            value: of the monitored metric; nan is not reported.
            at: epochs or optimizer steps done, in the unit of `reports_per_epoch`.
        """
        if self._over or math.isnan(value):  # which the best checkpoint and early stopping pass over, too
            return False
        if at not in self._reported:  # a resumed run may repeat this validation
            self._trial.report(value, at)
        return self._trial.should_prune()

    def close(self) -> None:
        """Closes the file."""
        self._storage.remove_session()
        self._storage.engine.dispose()
