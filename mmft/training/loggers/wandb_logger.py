"""Weights & Biases: `logger=wandb`, and `logger=wandb_offline`, whose runs `wandb sync` uploads later.

A run's wandb files are all in `<run folder>/wandb`. Its id is kept in summary.json, so that a resumed run continues
under it. wandb cannot resume offline: the second segment is a folder of its own with the same id.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmft import clock
from mmft.data.spread import spread_evenly
from mmft.errors import UserError
from mmft.run_folder import RunFolder
from mmft.tasks.metrics.names import lower_is_better
from mmft.training.loggers.base import Curve, Prediction, RunLogger, run_title

log = logging.getLogger(__name__)
_PROJECT = "mmft"
_LOGIN_SECONDS = 30.0  # timeout of the server; wandb's own is 90
_MOST_POINTS = 500  # of a curve
_MOST_LABELS = 100  # of a chart, of which W&B keeps 10,000 cells


class WandbLogger(RunLogger):
    """One wandb run per mmft run. wandb's step is the optimizer step.

    Args:
        offline: send nothing.
        project: null for `WANDB_PROJECT`, else `mmft`.
        entity: user or team; null for `WANDB_ENTITY`, else the login's default.
        group: null for the sweep's folder or, outside a sweep, `WANDB_RUN_GROUP`.
        tags: the run's; `WANDB_TAGS` if empty.
        predictions: rows of the table of test predictions.
        log_model: whether to log the finished model as an artifact.
    """

    def __init__(
        self,
        offline: bool,
        project: str | None,
        entity: str | None,
        group: str | None,
        tags: list[str],
        predictions: int,
        log_model: bool,
    ) -> None:
        super().__init__(predictions)
        self.offline = offline
        self.keeps_model = log_model
        self._named = {"entity": entity, "project": project, "group": group, "tags": tags or None}
        self._run: Any = None
        self._step = 0
        self._resumes = False
        self._defined: set[str] = set()

    def start(self, folder: RunFolder, config: Mapping[str, Any]) -> None:
        """Opens the run, under its earlier id if it resumes."""
        with clock.importing():
            import wandb
        self._folder = folder
        known = folder.read_summary().get("wandb") or {}
        self._resumes = "id" in known
        named = (
            self._named
            | {
                "project": self._named["project"] or os.environ.get("WANDB_PROJECT") or _PROJECT,
                "group": self._named["group"] or folder.sweep,
                "mode": "offline" if self.offline else None,  # None leaves it to WANDB_MODE
                "id": known.get("id") or uuid.uuid4().hex[:8],
            }
        )
        settings: dict[str, Any] = {} if "WANDB_INIT_TIMEOUT" in os.environ else {"init_timeout": _LOGIN_SECONDS}
        try:
            with _no_questions():
                wandb.setup(settings=wandb.Settings(show_info=False))  # the link is logged below; warnings remain
                self._run = wandb.init(
                    **named,
                    name=run_title(folder),
                    dir=str(folder.path),
                    resume="allow",
                    reinit="create_new",  # the caller may have its own run
                    config=dict(config),
                    job_type="train",
                    settings=wandb.Settings(**settings),
                )
        except (wandb.errors.Error, ValueError) as error:
            raise UserError(_cannot_start(error)) from error
        url = None if self._run.offline else self._run.url
        folder.update_summary(wandb={"id": self._run.id, "project": self._run.project, "url": url})
        if self._run.offline:
            log.info("wandb: offline; to upload: wandb sync %s", Path(self._run.settings.sync_dir).absolute())
        else:
            log.info("wandb: %s", url or "disabled by WANDB_MODE")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs one row of the run's history; the run's summary has the best value of each validation metric."""
        self._step = self._step if step is None else step
        new = metrics.keys() - self._defined
        minimised = self._folder.peek().get("minimised", ()) if new and self._run is not None else ()
        for name in new:
            self._defined.add(name)
            if self._run is not None and name.startswith("val/"):
                self._run.define_metric(name, summary="min" if lower_is_better(name, minimised) else "max")
        self._log(metrics)

    def _log(self, values: Mapping[str, Any]) -> None:
        # A resumed run may repeat logged steps, with the same values; wandb rejects them.
        if self._run is not None and self._step >= self._run.step:
            self._run.log(dict(values), step=self._step)

    def log_table(self, name: str, rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table to the run's history."""
        if self._run is None or (self._resumes and self._step == 0):
            return  # logged before the resume
        import wandb

        logged: dict[str, Any] = {}
        with self._staged_here():
            if name.endswith("/confusion_matrix"):
                if len(rows) - 1 <= _MOST_LABELS:
                    logged[f"{name}_chart"] = _confusion_chart(rows)
                else:
                    log.info("W&B's chart would show %d labels of %d: the table has all", _MOST_LABELS, len(rows) - 1)
            logged[name] = wandb.Table(columns=list(rows[0]), data=[*map(list, rows[1:])], allow_mixed_types=True)
            self._log(logged)

    def log_predictions(self, rows: Sequence[Prediction]) -> None:
        """Logs `test/predictions`, with images as the model sees them."""
        if self._run is None:
            return
        import wandb
        from PIL import Image

        def drawn(row: Prediction) -> Any:
            return None if row.image is None else wandb.Image(Image.fromarray(row.image.permute(1, 2, 0).numpy()))

        data = [list(row._replace(image=drawn(row))) for row in rows]
        with self._staged_here():
            self._log({"test/predictions": wandb.Table(columns=list(Prediction._fields), data=data)})

    def log_curves(self, name: str, title: str, curves: Mapping[str, Curve], axes: tuple[str, str]) -> None:
        """Logs wandb's own chart of curves."""
        if self._run is None:
            return
        with self._staged_here():
            self._log({name: _curve_chart(title, curves, axes)})

    def log_model(self, folder: Path) -> None:
        """Logs the finished model as an artifact that references its files in place."""
        if self._run is None or not self.keeps_model:
            return
        import wandb

        with self._staged_here():
            artifact = wandb.Artifact(f"model-{self._run.id}", type="model")
            artifact.add_dir(str(folder), policy="immutable")
            self._run.log_artifact(artifact)

    def finish(self, exit_code: int) -> None:
        """Closes the run; mmft's summary is added under `run`."""
        if self._run is None:
            return
        run, self._run = self._run, None
        known = self._folder.read_summary()
        run.summary.update({"run": {key: value for key, value in known.items() if key != "wandb"}})
        run.finish(exit_code=exit_code)
        import wandb

        if wandb.run is None:  # the caller has no run of its own
            wandb.teardown()  # waits for wandb's process, which still writes after `finish`

    @contextmanager
    def _staged_here(self) -> Iterator[None]:
        """Stages uploads in the run folder, not in the home folder of a machine that may be short-lived."""
        before = os.environ.get("WANDB_DATA_DIR")
        os.environ["WANDB_DATA_DIR"] = before or str(self._folder.path.absolute() / "wandb")
        try:
            yield
        finally:
            if before is None:
                del os.environ["WANDB_DATA_DIR"]


def _confusion_chart(rows: Sequence[Sequence[Any]]) -> Any:
    """Wandb's own confusion matrix, of counts instead of predictions.

    Args:
        rows: a header with the predicted labels, then a true label and its counts.
    """
    import wandb

    (_, *predicted), *counts = rows
    cells = [[true, label, count] for true, *of in counts for label, count in zip(predicted, of, strict=True)]
    names = {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"}
    table = wandb.Table(columns=list(names), data=cells)
    return wandb.plot_table("wandb/confusion_matrix/v1", table, names, {"title": "Confusion matrix"})


def _curve_chart(title: str, curves: Mapping[str, Curve], axes: tuple[str, str]) -> Any:
    """Wandb's own chart of ROC and precision-recall curves, of points instead of predictions, which it would take."""
    import wandb

    points = [
        [name, float(curve.x[at]), float(curve.y[at])]
        for name, curve in curves.items()
        for at in spread_evenly(len(curve.x), _MOST_POINTS).tolist()
    ]
    x, y = axes
    table = wandb.Table(columns=["class", x, y], data=points)
    words = {"title": title, "x-axis-title": x, "y-axis-title": y}
    return wandb.plot_table("wandb/area-under-curve/v0", table, {"x": x, "y": y, "class": "class"}, words)


@contextmanager
def _no_questions() -> Iterator[None]:
    """Keeps wandb from prompting for a login on a terminal, where a run would wait forever."""
    terminal = sys.stdin
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = terminal


def _cannot_start(error: Exception) -> str:
    said = str(error).split("\nConsider")[0].strip().rstrip(".")
    return (
        f"logger=wandb: {said}. Type `wandb login` once on this machine or set WANDB_API_KEY; without a network "
        "type logger=wandb_offline, and `wandb sync` uploads the run later; or logger=none"
    )


def online(**options: Any) -> WandbLogger:
    """A logger that uploads during the run, unless WANDB_MODE overrides it."""
    return WandbLogger(offline=False, **options)


def offline(**options: Any) -> WandbLogger:
    """A logger that writes files for `wandb sync`."""
    return WandbLogger(offline=True, **options)
