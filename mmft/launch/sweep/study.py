"""`hydra/sweeper=optuna`: a study in `study.db` inside the sweep's folder chooses the next trial.

Trials and jobs share their numbers. Results are read from the run folders, so a sweep that was killed at any moment can
resume: with the trials that had started, in their own folders, from their last checkpoints.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmft.config.compose import Composed
from mmft.config.overrides import Typed
from mmft.config.rules.base import no_val
from mmft.config.schema.sweep import BasicLauncherConfig, OptunaSweeperConfig
from mmft.errors import ExitCode, UserError
from mmft.files import locked
from mmft.launch.sweep.job import Job, Result, varies
from mmft.run_folder import STUDY, SWEEP, RunFolder
from mmft.tasks.metrics.names import lower_is_better
from mmft.training.trial import NAME, make_pruner, mark_as_trial, open_storage

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

_FIXED = ("task", "checkpoint.monitor")
"""Keys that are the same in all trials, because they define the comparison."""


class StudySweeper:
    """Asks a study for trials and reports their results to it.

    Args:
        composed: the sweep's config.
        config_dirs: the user's folders of YAML files.
        folder: the sweep's; an earlier search in it is resumed.

    Raises:
        UserError: there is nothing to search or compare by, or the folder has a different search.
    """

    def __init__(self, composed: Composed, config_dirs: Sequence[Path], folder: Path) -> None:
        import optuna

        assert composed.sweep is not None
        assert isinstance(composed.sweep.sweeper, OptunaSweeperConfig)
        self.config_dirs, self.folder = config_dirs, folder
        self.settings = composed.sweep.sweeper
        self.parallel = not isinstance(composed.sweep.launcher, BasicLauncherConfig)
        self.typed = list({typed.key: typed for typed in composed.parsed}.values())  # of repeated keys, the last
        self.space = {typed.key: _distribution(typed) for typed in self.typed if varies(typed)}
        _check(composed, self.space)
        _check_goes_on(composed, folder)
        self.monitor, direction = _objective(composed)
        settings, epochs = self.settings, composed.config.trainer.max_epochs
        self.pruner: dict[str, Any] = {"name": settings.pruner, "startup_trials": settings.pruner_startup_trials}
        self.pruner |= {"warmup_epochs": settings.pruner_warmup_epochs, "max_epochs": epochs}
        self.study = optuna.create_study(
            storage=open_storage(folder / STUDY),
            study_name=NAME,
            direction=direction,
            load_if_exists=True,
            pruner=make_pruner(**self.pruner),
        )
        trials = self.study.get_trials(deepcopy=False)
        self._begun = [trial for trial in trials if not trial.state.is_finished()]
        if trials:
            done, left = len(trials) - len(self._begun), max(0, settings.n_trials - len(trials))
            print(
                f"mmft: resuming the search in {folder}: of n_trials={settings.n_trials}, {done} are done, "
                f"{len(self._begun)} had started, {left} are left.",
                file=sys.stderr,
            )

    def ask(self) -> Job | None:
        """The next trial: one that had started when the sweep ended, or a new one."""
        while self._begun:
            trial = self._begun.pop(0)
            job = self._job(trial.number, trial.params)
            if RunFolder(job.folder).peek().get("status") not in ("completed", "pruned", "failed"):
                return job
            self.tell(Result(job, ExitCode.DONE))  # the sweep was killed before this
        number = len(self.study.get_trials(deepcopy=False))
        if number >= self.settings.n_trials:
            return None
        self.study.sampler = _sampler(self.settings, number, self.parallel)
        asked = self.study.ask(self.space)
        return self._job(asked.number, asked.params)

    def _job(self, number: int, params: dict[str, Any]) -> Job:
        job = Job(number, [_text(one, params) for one in self.typed], self.config_dirs, self.folder / str(number))
        mark_as_trial(job.folder, self.folder / STUDY, number, self.pruner)
        return job

    def tell(self, result: Result) -> None:
        """Records how a trial ended; one that was stopped resumes with the sweep."""
        from optuna.trial import TrialState

        if result.stopped:
            return
        summary = RunFolder(result.job.folder).peek()
        status = summary.get("status") if result.code == ExitCode.DONE else "failed"
        value = (summary.get("val") or {}).get(self.monitor)
        if status == "completed" and value is not None and math.isfinite(value):
            self.study.tell(result.job.number, float(value))
            return
        state = TrialState.PRUNED if status == "pruned" else TrialState.FAIL
        self.study.tell(result.job.number, state=state)


def _distribution(typed: Typed) -> BaseDistribution:
    """Optuna's distribution of a key: numbers of an interval, or the overrides as typed."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    span = typed.span
    if span is None:
        return CategoricalDistribution(list(dict.fromkeys(typed.texts)))
    if isinstance(span.low, int) and isinstance(span.high, int):
        return IntDistribution(span.low, span.high, log=span.log, step=int(span.step or 1))
    step = None if span.step is None or span.log else float(span.step)
    return FloatDistribution(float(span.low), float(span.high), log=span.log, step=step)


def _text(typed: Typed, params: dict[str, Any]) -> str:
    """The override of one trial."""
    if typed.key not in params:
        return typed.texts[0]
    value = params[typed.key]
    return str(value) if typed.span is None else f"{typed.key}={value!r}"


def _sampler(settings: OptunaSweeperConfig, number: int, parallel: bool) -> BaseSampler:
    """The sampler of one trial, with its own seed, so that a resumed search draws nothing twice."""
    import numpy as np
    import optuna

    seed = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0])
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    if settings.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=settings.n_startup_trials)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=settings.n_startup_trials, constant_liar=parallel, multivariate=False
    )


def _objective(composed: Composed) -> tuple[str, Literal["minimize", "maximize"]]:
    """The validation metric that trials are compared by, and its direction."""
    from mmft.build import build_task  # imports torch and Lightning, which only a search needs

    task = build_task(composed.config.task)
    monitor = str(composed.config.checkpoint.monitor or task.monitor).removeprefix("val/")
    return monitor, "minimize" if lower_is_better(monitor, task.minimised) else "maximize"


def _check(composed: Composed, space: dict[str, Any]) -> None:
    wrong = [f"{key}: defines how trials are compared, and cannot be searched" for key in _FIXED if key in space]
    if not space:
        wrong.append(
            "hydra/sweeper=optuna: there is nothing to search. Give a key several values: optim=adamw,sgd or "
            '"optim.lr=tag(log, interval(1e-5, 1e-3))"'
        )
    if why := no_val(composed.config):
        wrong.append(f"hydra/sweeper=optuna: trials are compared on validation rows, but {why}")
    if wrong:
        raise UserError(wrong)


@contextmanager
def the_only_search(folder: Path) -> Iterator[None]:
    """Locks the folder against other searches.

    Raises:
        UserError: one is running there.
    """
    try:
        lock = locked(folder / f".{STUDY}.lock")
    except BlockingIOError:
        raise UserError(f"hydra.sweep.dir: a sweep is running in {folder}; wait for it or stop it") from None
    with lock:
        yield


def _check_goes_on(composed: Composed, folder: Path) -> None:
    """Checks that the folder's search is this one: only Hydra's own keys may differ."""
    record = folder / SWEEP
    if not record.is_file():
        return
    before, now = (
        {o for o in overrides if not o.lstrip("+").startswith("hydra")}
        for overrides in (json.loads(record.read_text(encoding="utf-8"))["overrides"], composed.typed)
    )
    wrong = [f"{o.partition('=')[0]}: the search in {folder} has {o}, which is missing now" for o in before - now]
    wrong += [f"{o.partition('=')[0]}: the search in {folder} does not have {o}" for o in now - before]
    if wrong:
        raise UserError(f"{w}. Type the same overrides, or name a new hydra.sweep.dir" for w in sorted(wrong))
