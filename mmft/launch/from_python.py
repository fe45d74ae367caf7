"""`mmft.train`, `mmft.sweep` and `mmft.check`: the commands from Python, on rows in a file or in memory.

They compose, check and train as the command does, in this process, and leave nothing of it changed.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmft.config.from_python import overrides_of, value_of
from mmft.config.plugins import allow_code as allow
from mmft.errors import UserError
from mmft.launch.ready import composed, new_job, resumed_job
from mmft.launch.start import train_job
from mmft.runs.naming import make_run_folder
from mmft.runs.trained_run import TrainedRun
from mmft.signals import Stopped

if TYPE_CHECKING:
    from mmft.reports.audit.finding import Finding

Overrides = Iterable[str] | Mapping[str, Any]
_QUIETED = ("lightning", "lightning.pytorch", "lightning.fabric", "transformers", "timm", "bitsandbytes")


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
        rows: a file, folder or pattern; a DataFrame of pandas or polars; an Arrow table; a data set of `datasets`; a
            list of dicts. With `val` or `test`, the training rows. None: the overrides name them. Rows in memory are
            written to `rows.parquet` in the run folder, so that the run can be resumed.
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
    typed = [*_columns(overrides, image=image, text=text, label=label), *overrides_of(overrides), *overrides_of(more)]
    folders = [Path(folder) for folder in config_dirs]
    with _as_it_was(allow_code), tempfile.TemporaryDirectory() as scratch:
        job = resumed_job(typed, folders)
        if job is None:
            given = _Rows({"train": rows, "val": val, "test": test}, Path(scratch), image)
            job = new_job([*given.overrides, *typed], folders)
            if given.move(job[1]):
                job = composed("train", [*given.overrides, *typed], folders), job[1]
        elif rows is not None:
            raise UserError("resume: a resumed run has its own rows. Leave `rows` out")
        train_job(*job)
    return TrainedRun(job[1])


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
    typed = [*_columns(overrides, image=image, text=text, label=label), *overrides_of(overrides), *overrides_of(more)]
    typed += [f"{key}={','.join(value_of(key, value) for value in values)}" for key, values in (over or {}).items()]
    folders = [Path(folder) for folder in config_dirs]
    with _as_it_was(allow_code), tempfile.TemporaryDirectory() as scratch:
        given = _Rows({"train": rows, "val": val, "test": test}, Path(scratch), image)
        ready = composed("train", [*given.overrides, *typed], folders, multirun=True)
        folder = make_run_folder(ready, sweep=True)
        if given.move(folder):
            ready = composed("train", [*given.overrides, *typed], folders, multirun=True)
        import_module("mmft.launch.sweep.sweep").sweep(ready, folders, folder)
    return [TrainedRun(path) for path in sorted(folder.glob("[0-9]*"), key=lambda path: int(path.name))]


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
    typed = [*_columns(overrides, image=image, text=text, label=label), *overrides_of(overrides), *overrides_of(more)]
    with _as_it_was(allow_code), tempfile.TemporaryDirectory() as scratch:
        given = _Rows({"train": rows, "val": val, "test": test}, Path(scratch), image)
        ready = composed("check", [*given.overrides, *typed], [Path(folder) for folder in config_dirs])
        found: list[Finding] = import_module("mmft.commands.check").checked(ready)
        return found


class _Rows:
    """The tables given in Python, as overrides.

    Args:
        tables: by split; if only `train` is given, it has all rows.
        folder: where those in memory are written.
        image: the column of images.

    Attributes:
        overrides: what names the tables.
    """

    def __init__(self, tables: Mapping[str, Any], folder: Path, image: str | None) -> None:
        from mmft.data.sources.rows_file import write_rows

        tables = {split: table for split, table in tables.items() if table is not None}
        if tables and "train" not in tables:
            raise UserError("rows: there are none to train on, only some to validate or to test on")
        self._written: list[Path] = []
        self._named: dict[str, Any] = {}
        for split, table in tables.items():
            alone = len(tables) == 1
            where = table
            if not isinstance(table, (str, PathLike)):
                where = folder / ("rows.parquet" if alone else f"{split}.parquet")
                write_rows(table, where, () if image is None else (image,))
                self._written.append(where)
            self._named["data.path" if alone else f"data.{split}"] = str(fspath(where))
        if self._written and len(self._written) < len(tables):
            raise UserError("rows, val, test: some are files and some are in memory. Give all in one way")
        if self._written:
            self._named["data.root"] = str(Path.cwd())

    @property
    def overrides(self) -> list[str]:
        """`data.path=...`, or one for each split."""
        return overrides_of(self._named)

    def move(self, to: Path) -> bool:
        """Moves what was written into a folder; returns whether anything was."""
        for file in self._written:
            shutil.move(file, to / file.name)
        names = {str(file): str((to / file.name).absolute()) for file in self._written}
        self._named = {key: names.get(value, value) for key, value in self._named.items()}
        return bool(self._written)


def _columns(overrides: Overrides, **columns: str | Sequence[str] | None) -> list[str]:
    """The roles of columns; nothing if none is given."""
    if all(name is None for name in columns.values()):
        return []
    typed = overrides if isinstance(overrides, Mapping) else {one.partition("=")[0]: None for one in overrides}
    named = {f"data.columns.{role}": name for role, name in columns.items()}
    return overrides_of({key: name for key, name in named.items() if name is not None or key not in typed})


@contextmanager
def _as_it_was(allow_code: bool) -> Iterator[None]:
    """Context that leaves random generators, logging and warnings as they were, and interrupts as Python has them.

    Raises:
        KeyboardInterrupt: in place of `Stopped`.
    """
    import numpy as np
    import torch

    if allow_code:
        allow()
    loggers = [logging.getLogger(name) for name in ("mmft", *_QUIETED)]
    levels = [(logger, logger.level, logger.propagate) for logger in loggers]
    drawn, numpy_drawn = random.getstate(), np.random.get_state()  # noqa: NPY002 - of other people's code
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            yield
    except Stopped as stop:
        raise KeyboardInterrupt(str(stop)) from stop
    finally:
        random.setstate(drawn)
        np.random.set_state(numpy_drawn)  # noqa: NPY002
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)
        for logger, level, propagates in levels:
            logger.setLevel(level)
            logger.propagate = propagates
