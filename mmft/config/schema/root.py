"""The roots: what one command's config holds."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass
from typing import Any, Literal, get_type_hints

from mmft.config.fields import field
from mmft.config.registry import section
from mmft.config.schema.data import ColumnsConfig, DataConfig
from mmft.config.schema.logger import LoggerConfig
from mmft.config.schema.model import ModelConfig
from mmft.config.schema.optim import OptimConfig, ScheduleConfig
from mmft.config.schema.task import TaskConfig
from mmft.config.schema.trainer import CallbacksConfig, CheckpointConfig, TrainerConfig
from mmft.config.schema.tune import TuneConfig


@section("paths")
@dataclass(kw_only=True)
class PathsConfig:
    """`paths`: where things are written."""

    runs: str = "runs"
    """Folder of the run folders."""


@dataclass(kw_only=True)
class TrainConfig:
    """Everything that `mmft train` reads."""

    name: str | None = None
    """Name of the run, which is its folder's too; null: the experiment's."""
    seed: int = field(0, ge=0, lt=2**63)
    """Seed of weights, order, dropout and splits."""
    init: str | None = None
    """A run whose weights training starts from; not a resume. Its encoders must be the same; fusion and head start anew
    where they are others, such as those of a contrastive run."""
    resume: str | None = None
    """A run folder to go on with, or `last`: the newest unfinished run of this name."""
    plugins: list[str] = field(factory=list)
    """Modules, or files, with options of your own (docs/extend.md). They are imported, which needs --allow-code."""
    modality_report: bool | None = None
    """After the test: what text only and image only give, by a linear head on each encoder's features (of pairs: how
    well neighbours and a linear probe tell labels by the embeddings); null: unless the run is one of a sweep, which
    the pass over the training rows would hold up."""
    paths: PathsConfig = field(factory=PathsConfig)
    """Where things are written."""
    data: DataConfig
    """Rows."""
    model: ModelConfig
    """Encoders and fusion."""
    task: TaskConfig
    """What is learned."""
    tune: TuneConfig
    """What is trained."""
    optim: OptimConfig
    """Optimizer."""
    schedule: ScheduleConfig
    """Learning rates by step."""
    checkpoint: CheckpointConfig
    """What is saved."""
    callbacks: CallbacksConfig
    """What happens beside the step."""
    trainer: TrainerConfig
    """How training runs."""
    logger: LoggerConfig
    """Where metrics go besides metrics.csv."""


@dataclass(kw_only=True)
class AuditConfig:
    """`audit`: what `mmft check` looks for in the rows."""

    pictures: bool = True
    """Open every image; false: only what the table itself tells is looked at."""
    picture_bits: int = field(24, ge=0, le=96)
    """Images of two splits are similar when at most so many of their hashes' 256 bits differ, and their colours
    hardly do."""
    text_likeness: float = field(0.8, gt=0, le=1)
    """Texts of two splits are similar when they share so much of their three-letter pieces."""
    shown: int | None = field(5, ge=0)
    """Rows that are printed of each kind of finding; null: all."""


@dataclass(kw_only=True)
class CheckConfig(TrainConfig):
    """Everything that `mmft check` reads: the config of `mmft train`, and what to look for."""

    audit: AuditConfig = field(factory=AuditConfig)
    """What is looked for."""
    out: str | None = None
    """File of all findings, one row each, `.csv` or `.jsonl` by its ending; null: they are only printed."""


def _nullable(schema: type, name: str, doc: str, nested: dict[str, type], drop: set[str]) -> type:
    """`schema` with every field optional: null means "as in the run"."""
    hints = get_type_hints(schema)
    made: list[Any] = []
    for f in fields(schema):
        if f.name in nested:
            made.append((f.name, nested[f.name], field(factory=nested[f.name])))
        elif f.name not in drop:
            made.append((f.name, hints[f.name] | None, field(None, **f.metadata)))
    names = {"__doc__": doc, "__module__": __name__, "documented_by": schema}
    return make_dataclass(name, made, kw_only=True, namespace=names)


_DOC = "Each key left null is as in the run."
DataColumns = _nullable(ColumnsConfig, "DataColumns", _DOC, nested={}, drop=set())
RunData = _nullable(
    DataConfig,
    "RunData",
    _DOC,
    nested={"columns": DataColumns},
    drop={
        *("train", "val", "test", "fractions", "folds", "fold"),
        *("sampler", "micro_batch_size", "overfit", "picture_memory", "augment"),
    },
)


@dataclass(kw_only=True)
class RunsConfig:
    """Everything that `mmft runs` reads; any other key that is typed filters the runs by their own configs."""

    paths: PathsConfig = field(factory=PathsConfig)
    """Where the runs are."""
    status: Literal["running", "completed", "stopped", "failed", "pruned"] | None = None
    """Only runs of this status."""
    sort: str = "started"
    """`started` (newest first), `name`, `status`, `seconds`, a metric such as `test/accuracy` (best first), or a
    key of the runs' configs."""
    limit: int | None = field(None, ge=1)
    """At most so many runs, counted after sorting; null: all."""
    compare: str | list[str] | None = None
    """Runs to put side by side, `RUN,RUN,...` or a sweep's folder; `all`: those that the filters leave."""
    out: str | None = None
    """null: a table for people; `-`: CSV on stdout; a `.csv` or `.jsonl` file, by its ending."""


@dataclass(kw_only=True)
class ExportConfig:
    """Everything that `mmft export` reads."""

    run: str
    """A run folder, or `last`: the newest finished run under `paths.runs`."""
    out: str | None = None
    """The folder to write; null: `export` in the run's folder. What an earlier export wrote there is replaced."""
    format: Literal["hf"] = "hf"
    """`hf`: encoder folders that timm and transformers load, what was added merged into float32 weights."""
    paths: PathsConfig = field(factory=PathsConfig)
    """Where the runs are."""


@dataclass(kw_only=True)
class DoctorConfig:
    """Everything that `mmft doctor` reads."""

    paths: PathsConfig = field(factory=PathsConfig)
    """Where runs would be written."""


@dataclass(kw_only=True)
class RunTrainerConfig:
    """`trainer` of the commands that use a run."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto`: a GPU where there is one."""


@dataclass(kw_only=True)
class UseConfig:
    """What every command reads that uses a run on rows."""

    run: str
    """A run folder, or `last`: the newest under `paths.runs`."""
    paths: PathsConfig = field(factory=PathsConfig)
    """Where the runs are."""
    data: Any = field(factory=RunData)
    """The rows; each key left null is as in the run."""
    trainer: RunTrainerConfig = field(factory=RunTrainerConfig)
    """Where it runs."""


@dataclass(kw_only=True)
class ZeroShotConfig:
    """`zero_shot`: a run of `task=contrastive` as a classifier of images, by the names of labels alone."""

    labels: str | list[str] | None = None
    """Labels to choose from: their names, `run` (those of the run's training rows), or in `mmft test` `rows` (those
    of the tested rows); null: the run is used as it was trained."""
    templates: list[str] | None = field(None, only_with="labels=[NAME,NAME]")
    """Prompts of a label, `{}` for its name; null: the run's `task.templates`."""


@dataclass(kw_only=True)
class TestConfig(UseConfig):
    """Everything that `mmft test` reads."""

    zero_shot: ZeroShotConfig = field(factory=ZeroShotConfig)
    """Of a run of `task=contrastive`: classify the images."""

    modalities: bool = False
    """What each modality adds: the metrics again with the image alone, the text alone, and with the images or the
    texts exchanged between rows (four more passes). In the place of what is left out is its stand-in; one that was
    never trained (no training row lacked the modality, no `model.modality_dropout`) is zeros."""


@dataclass(kw_only=True)
class PredictConfig(UseConfig):
    """Everything that `mmft predict` reads."""

    zero_shot: ZeroShotConfig = field(factory=ZeroShotConfig)
    """Of a run of `task=contrastive`: classify the images."""

    out: str
    """File of predictions, `.csv`, `.jsonl` or `.parquet` by its ending; `-`: CSV on stdout."""


@dataclass(kw_only=True)
class EmbedConfig(UseConfig):
    """Everything that `mmft embed` reads."""

    out: str
    """File of embeddings, by its ending: `.parquet` (a list of numbers for each row and modality) or `.npz` (an array
    for each modality, nan where a row lacks it)."""


@dataclass(kw_only=True)
class ExplainConfig(UseConfig):
    """Everything that `mmft explain` reads."""

    zero_shot: ZeroShotConfig = field(factory=ZeroShotConfig)
    """Of a run of `task=contrastive`: explain what label an image is given."""

    out: str
    """Folder of what is made, a `.png` and a `.json` for each row (each of its targets or tasks); it is made where it
    does not exist."""
    rows: list[int] | None = None
    """Numbers of the rows to explain, from 0; null: those of `ids`."""
    ids: list[str] | None = None
    """Ids of the rows to explain, as in `data.columns.id`; null: those of `rows`."""
    label: str | None = None
    """What is explained: a label, a target, or one of several tasks; null: each row's own prediction, of several
    targets or tasks each one's."""
    points: int = field(64, ge=2)
    """Points on the way from a row that shows nothing to the row: more are slower and more exact. What the sum of all
    weights misses is said."""
