"""The root schemas of `mmft report` and `mmft review`."""

from __future__ import annotations

from dataclasses import dataclass

from mmft.config.fields import field
from mmft.config.schema.paths import PathsConfig
from mmft.config.schema.trainer import DeviceConfig


@dataclass(kw_only=True)
class ReportConfig:
    """Everything that `mmft report` reads."""

    run: str
    """A run folder, the folder of a sweep, or `last`: the newest finished run under `paths.runs`."""
    paths: PathsConfig = field(factory=PathsConfig)
    """Where runs are read from."""
    trainer: DeviceConfig = field(factory=DeviceConfig)
    """The device to predict the test rows on, if the run has not done so."""
    attributions: int | None = field(None, ge=1)
    """Explain the predictions of so many test rows anew, as `attributions` of `mmft train` does at the end of a run;
    null: show those that the run has."""


@dataclass(kw_only=True)
class ReviewConfig:
    """Everything that `mmft review` reads."""

    run: str
    """A run folder, or `last`: the newest finished run under `paths.runs`."""
    marks: str | list[str] | None = None
    """Files of marks that people made in the page of `mmft report` or in `mmft demo`: one, a pattern such as
    `'marks-*.jsonl'`, or a list; null: `marks-*.jsonl` in the run folder, which `mmft report` shows, too."""
    out: str | None = None
    """File for the marked rows, `.csv` or `.jsonl` by its extension, beside the summary on stdout; `-`: CSV on
    stdout in place of the summary; null: the summary only."""
    paths: PathsConfig = field(factory=PathsConfig)
    """Where runs are read from."""
