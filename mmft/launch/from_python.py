"""`mmft.train`, `mmft.sweep`, `mmft.check`, `mmft.runs` and `mmft.compose`: the commands from Python.

They compose, check and train as the command does, in this process, and leave nothing of it changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft import clock, logs
from mmft.config.compose import Composed
from mmft.config.from_python import swept
from mmft.errors import ExitCode, UserError
from mmft.files import located
from mmft.launch.given import Overrides, given_by, typed_of
from mmft.launch.ready import composed, new_job, resumed_job
from mmft.launch.start import train_job
from mmft.run.as_it_was import as_it_was
from mmft.run.listing.chosen import chosen_runs
from mmft.run.listing.filters import compose_runs
from mmft.run.naming import make_run_folder
from mmft.run.trained_run import TrainedRun
from mmft.run_folder import RunFolder
from mmft.signals import StopRequest

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from mmft.config.schema.root import TrainConfig
    from mmft.data.datamodule import VisionLanguageData
    from mmft.models.vision_language_model import VisionLanguageModel
    from mmft.reports.audit.finding import Finding
    from mmft.tasks.base import Task
    from mmft.training.module import FineTuning
    from mmft.tuning.plan import TuningPlan


def train(
    rows: Any = None,
    overrides: Overrides = (),
    *,
    val: Any = None,
    test: Any = None,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    config_dirs: Sequence[str | Path] = (),
    allow_code: bool = False,
    **more: Any,
) -> TrainedRun:
    """Trains a model as `mmft train` does, and returns the run.

    >>> run = mmft.train("rows.csv", image="image", text="title", label="label", tune="lora")  # doctest: +SKIP
    >>> run = mmft.train(frame, ["task=regression", "optim.lr=1e-4"], text="title", label="price")  # doctest: +SKIP
    >>> run = mmft.train(resume=run.folder, trainer={"max_epochs": 20})  # doctest: +SKIP

    Args:
        rows: a file, folder or pattern; a DataFrame of pandas or polars; an Arrow table; a data set of `datasets`, or
            its splits by name; a list of dicts. With `val` or `test`, the training rows. None: the overrides name them.
            Rows in memory are written to `rows.parquet` in the run folder, so that the run can be resumed.
        overrides: as in the shell, a list of them or a mapping from keys to values.
        val: rows to validate on; None: a split column, or a share of `rows` as in `data.fractions`.
        test: rows to test on, likewise.
        image: the column of images.
        text: the column of texts, or several.
        label: the column of labels, or several. If any of the three is given, one that is not is absent.
        config_dirs: folders with YAML files of your own.
        allow_code: whether plugins and code of model folders may run.
        more: further overrides by key; a mapping for nested ones.

    Raises:
        UserError: config or rows are wrong; nothing has been trained.
        TrainingError: the training failed; the message says what is left and how to resume.
        KeyboardInterrupt: it was interrupted; the run is saved, and the message says how to resume.
    """
    typed = typed_of(overrides, more, image=image, text=text, label=label)
    folders = [Path(folder) for folder in config_dirs]
    with given_by({"train": rows, "val": val, "test": test}, typed, image, allow_code) as given:
        job = resumed_job(given.typed, folders)
        if job is None:
            job = new_job(given.overrides, folders)
            if given.move(job[1]):
                job = composed("train", given.overrides, folders), job[1]
        elif given.has_rows:
            raise UserError("resume: a resumed run has its own rows. Leave `rows` out")
        train_job(*job)
    return TrainedRun(job[1], allow_code)


def sweep(
    rows: Any = None,
    over: Mapping[str, Sequence[Any]] | None = None,
    overrides: Overrides = (),
    *,
    val: Any = None,
    test: Any = None,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    config_dirs: Sequence[str | Path] = (),
    allow_code: bool = False,
    **more: Any,
) -> list[TrainedRun]:
    """Trains a run for each combination of values, as `mmft train -m` does; returns the runs, the first one first.

    >>> runs = mmft.sweep("rows.csv", {"optim.lr": [1e-4, 1e-3]}, image="image", label="label")  # doctest: +SKIP

    Args:
        rows: as for `train`.
        over: the values to try, by key; None: the overrides name them, as in the shell (`"optim.lr=1e-4,1e-3"`).
        overrides: of every run, and of the sweep itself, such as `hydra/sweeper=optuna`.
        val: as for `train`, like all that follow.
        test: likewise.
        image: likewise.
        text: likewise.
        label: likewise.
        config_dirs: likewise.
        allow_code: likewise.
        more: likewise.

    Raises:
        UserError: nothing can be started. Runs that fail later are in the list, with what failed in their `summary`.
        KeyboardInterrupt: it was interrupted; finished runs are kept.
    """
    typed = [*typed_of(overrides, more, image=image, text=text, label=label), *swept(over or {})]
    folders = [Path(folder) for folder in config_dirs]
    with given_by({"train": rows, "val": val, "test": test}, typed, image, allow_code) as given:
        ready = composed("train", given.overrides, folders, multirun=True)
        folder = make_run_folder(ready, sweep=True)
        if given.move(folder):
            ready = composed("train", given.overrides, folders, multirun=True)
        code = import_module("mmft.launch.sweep.sweep").sweep(ready, folders, folder)
    if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
        raise KeyboardInterrupt(f"the sweep was stopped; the runs that it made are in {folder}")
    return [TrainedRun(path, allow_code) for path in sorted(folder.glob("[0-9]*"), key=lambda path: int(path.name))]


def check(
    rows: Any = None,
    overrides: Overrides = (),
    *,
    val: Any = None,
    test: Any = None,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    config_dirs: Sequence[str | Path] = (),
    allow_code: bool = False,
    **more: Any,
) -> list[Finding]:
    """Checks config, rows and model without training, as `mmft check` does; prints and returns what was found.

    >>> pd.DataFrame(mmft.check(frame, image="image", text="title", label="label"))  # doctest: +SKIP

    Args:
        rows: as for `train`, like all that follow.
        overrides: likewise.
        val: likewise.
        test: likewise.
        image: likewise.
        text: likewise.
        label: likewise.
        config_dirs: likewise.
        allow_code: likewise.
        more: likewise.

    Returns:
        What was found in the rows: bad ones, duplicates, leaks, suspicious labels; each with split, row and reason.

    Raises:
        UserError: with everything that would make training fail.
    """
    typed = typed_of(overrides, more, image=image, text=text, label=label)
    with given_by({"train": rows, "val": val, "test": test}, typed, image, allow_code) as given:
        ready = composed("check", given.overrides, [Path(folder) for folder in config_dirs])
        found: list[Finding] = import_module("mmft.commands.check").checked(ready)
        return found


def runs(
    overrides: Overrides = (), *, config_dirs: Sequence[str | Path] = (), allow_code: bool = False, **more: Any
) -> list[TrainedRun]:
    """The runs below `paths.runs` that `mmft runs` lists, newest first.

    >>> best = mmft.runs(name="mine", status="completed", sort="test/accuracy")[0]  # doctest: +SKIP
    >>> pd.DataFrame([run.summary["test"] | {"lr": run.config["optim"]["lr"]} for run in mmft.runs()])  # doctest: +SKIP

    Args:
        overrides: keys of `mmft runs` (`sort`, `limit`, `status`, `paths.runs`), and filters by any key of training, a
            list of them as in the shell or a mapping from keys to values.
        config_dirs: folders with YAML files of your own.
        allow_code: whether the `model` of a run may run its plugins.
        more: further overrides by key; a mapping for nested ones.

    Raises:
        UserError: there is no such key.
    """
    with as_it_was(allow_code):
        ready, filters = compose_runs(typed_of(overrides, more), [Path(folder) for folder in config_dirs])
        return [TrainedRun(run.folder.path, allow_code) for run in chosen_runs(ready.config, filters)[0]]


@dataclass(frozen=True)
class Assembled:
    """What a config names, built: for those who want Lightning's own loop, or a part alone.

    Attributes:
        config: the whole config, with absolute paths and automatic choices resolved.
        module: the LightningModule.
        data: the LightningDataModule.
        trainer: Lightning's Trainer with all callbacks; it writes no run folder, and so no checkpoints.
    """

    config: TrainConfig
    module: FineTuning
    data: VisionLanguageData
    trainer: pl.Trainer

    @property
    def model(self) -> VisionLanguageModel:
        """The torch module."""
        return self.module.model

    @property
    def task(self) -> Task:
        """The task, fitted to the labels of the training rows."""
        return self.module.task

    @property
    def plan(self) -> TuningPlan:
        """What is trained, and how fast."""
        return self.module.plan


def compose(
    rows: Any = None,
    overrides: Overrides = (),
    *,
    val: Any = None,
    test: Any = None,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    config_dirs: Sequence[str | Path] = (),
    allow_code: bool = False,
    **more: Any,
) -> Assembled:
    """Builds what `train` would train, in one process, and trains nothing.

    >>> parts = mmft.compose("rows.csv", image="image", text="title", label="label")  # doctest: +SKIP
    >>> parts.trainer.fit(parts.module, parts.data)  # doctest: +SKIP

    Args:
        rows: as for `train`, like all that follow.
        overrides: likewise.
        val: likewise.
        test: likewise.
        image: likewise.
        text: likewise.
        label: likewise.
        config_dirs: likewise.
        allow_code: likewise.
        more: likewise.

    Raises:
        UserError: config or rows are wrong.
    """
    typed = typed_of(overrides, more, image=image, text=text, label=label)
    with given_by({"train": rows, "val": val, "test": test}, typed, image, allow_code) as given:
        ready = composed("train", given.overrides, [Path(folder) for folder in config_dirs])
        return _assembled(ready)


def _assembled(ready: Composed) -> Assembled:
    with clock.importing():
        from mmft import build
        from mmft.commands.train import assemble
        from mmft.data.bad_rows import BadRows
        from mmft.training.csv_log import CsvLog
        from mmft.training.hardware import choose_hardware
        from mmft.training.loggers.base import RunLogger
    logs.quiet_libraries()
    base = Path.cwd()
    folder = RunFolder(located(ready.config.paths.runs), writes=False)
    run = build.Run(ready, folder, base, clock.job_start(), StopRequest(), RunLogger())
    choose_hardware(ready.config.trainer, 1)
    build.choose_for_pair(ready.config, base)
    _, module, data = assemble(run.config, folder)
    bad = BadRows(data.rows_read, run.config.data.max_bad_fraction)
    bad.add(data.table_bad)
    bad.check()
    log = CsvLog(folder.metrics, writes=False)
    callbacks = build.build_callbacks(run, data, module.task, module.plan, log, bad)
    trainer = build.build_trainer(run.config, folder, data, callbacks, [])
    return Assembled(run.config, module, data, trainer)
