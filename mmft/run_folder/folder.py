"""What a run writes where."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmft.errors import UserError
from mmft.files import damage, locked, naming, write_text

SUMMARY = "summary.json"
"""File of status, metrics and statistics; a folder that has it is a run's."""
LOCK = ".lock"
"""File of a run's folder that is locked while a command writes there; it also claims a new folder."""
SWEEP, STUDY = "sweep.json", "study.db"
"""Files of a sweep's folder: what was typed, and a search's trials, from which it can resume."""
STATE = "state.json"
"""File of a checkpoint that holds its plain values, such as `global_step`."""
_PATIENCE = 15.0  # seconds for the image workers of a killed process to end


def as_when_saved(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the keys that it lacks, because it is older, set to what was done then."""
    data = config.get("data")
    if isinstance(data, dict):
        data.setdefault("drawing", "by_row")
    return config


class RunFolder:
    """The folder of one run.

    Args:
        path: the folder; created with its first file.
        writes: False on ranks that must not write.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = Path(path)
        self.writes = writes

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def overrides(self) -> Path:
        """What was typed after `mmft train`."""
        return self.path / "overrides.yaml"

    @property
    def summary(self) -> Path:
        """Status, metrics and statistics."""
        return self.path / SUMMARY

    @property
    def metrics(self) -> Path:
        """Metrics per optimizer step."""
        return self.path / "metrics.csv"

    @property
    def bad_rows(self) -> Path:
        """Rows that could not be used; written only if there are any."""
        return self.path / "bad_rows.csv"

    @property
    def tuning(self) -> Path:
        """What is trained, by optimizer group."""
        return self.path / "tuning.csv"

    @property
    def attributions(self) -> Path:
        """What regions and words speak for a few predictions, for the report."""
        return self.path / "attributions.jsonl"

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.path / "report.html"

    @property
    def contradicted(self) -> Path:
        """The training rows whose labels a probe contradicts; written only by one, if there are any."""
        return self.path / "contradicted.csv"

    @property
    def subset(self) -> Path:
        """The training rows that `data.subset` chose; written only with it."""
        return self.path / "subset.csv"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints for resuming."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The finished model."""
        return self.path / "model"

    @property
    def sweep(self) -> str | None:
        """`name/date_time` of the sweep that the run belongs to, or None."""
        parent = self.path.absolute().parent
        return "/".join(parent.parts[-2:]) if (parent / SWEEP).is_file() else None

    def write_config(self, config: dict[str, Any], typed: list[str], choices: dict[str, str]) -> None:
        """Writes config.yaml and, on the run's first start, the overrides and the chosen options.

        Args:
            config: the whole config.
            typed: the overrides, for overrides.yaml.
            choices: the option of each group, for summary.json; config.yaml has only their values.
        """
        import yaml

        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        if not (self.overrides).exists():
            write_text(self.overrides, yaml.safe_dump(typed, allow_unicode=True))
            self.update_summary(choices=choices)

    def working_directory(self) -> Path:
        """The base of the config's relative paths: where the run was first started."""
        return Path(self.read_config()["working_directory"] if self.config.exists() else Path.cwd())

    def read_config(self) -> dict[str, Any]:
        """Reads config.yaml as plain values.

        Raises:
            UserError: the file is missing or unreadable.
        """
        import yaml

        try:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is 10 times as fast
            return as_when_saved(dict(yaml.load(self.config.read_text(encoding="utf-8"), Loader=loader)))  # noqa: S506
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{self.config} cannot be read ({error}); is {self.path} a run folder?") from None

    def read_overrides(self) -> list[str]:
        """Reads overrides.yaml, what was typed after `mmft train`; empty if it does not exist or is unreadable."""
        import yaml

        try:
            found = yaml.safe_load((self.overrides).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return []
        return [str(word) for word in found] if isinstance(found, list) else []

    def read_summary(self) -> dict[str, Any]:
        """Reads summary.json; empty if it does not exist."""
        try:
            return dict(json.loads(self.summary.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def peek(self) -> dict[str, Any]:
        """Reads summary.json; empty if it is unreadable, as in a folder of another program."""
        try:
            return self.read_summary()
        except (OSError, ValueError, TypeError):
            return {}

    @property
    def is_completed(self) -> bool:
        """Whether the run completed."""
        return self.peek().get("status") == "completed"

    @property
    def is_held(self) -> bool:
        """Whether a process holds the folder's lock, as a run does until its process ends."""
        lock = self.path / LOCK
        if not lock.exists():
            return False
        try:
            locked(lock).close()
        except OSError:  # held (BlockingIOError), or of someone else, so that nothing is known
            return True
        return False

    @property
    def is_finished(self) -> bool:
        """Whether the run completed and its model is as it was written, so that there is nothing to resume."""
        return self.is_completed and damage(self.model) is None

    def newest_checkpoint(self, thorough: bool = True) -> tuple[Path, int] | None:
        """The newest checkpoint that is not damaged, and its optimizer steps; None without one.

        Args:
            thorough: as in `mmft.files.damage`.
        """
        found = []
        for folder in self.checkpoints.glob("[!.]*"):
            with suppress(OSError, ValueError, KeyError, TypeError):  # damaged
                state = json.loads((folder / STATE).read_text(encoding="utf-8"))
                found.append((int(state["global_step"]), folder.name == "last", folder))
        newest = sorted(found, reverse=True)
        return next(((folder, step) for step, _, folder in newest if damage(folder, thorough) is None), None)

    @property
    def train_command(self) -> str:
        """`mmft train`, with `--allow-code` if the run has plug-ins."""
        with suppress(UserError):  # an unreadable config
            return "mmft train" + " --allow-code" * bool(self.read_config().get("plugins"))
        return "mmft train"

    def way_on(self) -> str:
        """What a run that ended early leaves, and how to resume it, in a sentence or two."""
        found = self.newest_checkpoint(thorough=False)
        if found is None and not self.config.exists():
            return "It has not begun."
        if found is None:
            return f"It has no checkpoint yet; to start it over: {self.train_command} resume={self.path}"
        return f"To resume from {found[0]} (optimizer step {found[1]}): {self.train_command} resume={self.path}"

    def update_summary(self, **values: Any) -> None:
        """Sets keys of summary.json and keeps the others."""
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_without_nan(self.read_summary() | values), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.summary, f"{text}\n")

    def write_tables(self, tables: dict[str, list[list[Any]]]) -> None:
        """Writes each table as `<name>.csv`."""
        for name, rows in tables.items() if self.writes else ():
            path = self.path / f"{name}.csv"
            with naming(path), path.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows(rows)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Locks the folder against other processes.

        Raises:
            UserError: another process holds the lock.
        """
        if not self.writes:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            lock = locked(self.path / LOCK, patience=_PATIENCE)
        except BlockingIOError:
            raise UserError(f"resume: {self.path} is running in another process; wait for it or stop it") from None
        with lock:
            yield

    def start(self, **values: Any) -> None:
        """Writes the initial summary of a run that starts or resumes."""
        started = self.read_summary().get("started") or datetime.now(UTC).isoformat(timespec="microseconds")
        self.update_summary(status="running", error=None, started=started, **values)


def _without_nan(value: Any) -> Any:
    """Replaces numbers that JSON cannot hold by null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
