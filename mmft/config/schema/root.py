"""The root schema of every command; `COMMANDS` maps each command to its root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass
from typing import Any, Literal, get_type_hints

from mmft.config.fields import field
from mmft.config.schema.audit import AuditConfig
from mmft.config.schema.cache import CacheCommandConfig, CacheConfig, TrainingCacheConfig
from mmft.config.schema.data import ColumnsConfig, DataConfig, ReadingConfig
from mmft.config.schema.decoding import DecodingConfig
from mmft.config.schema.generation import GenerationConfig  # noqa: F401 - registers itself
from mmft.config.schema.logger import LoggerConfig
from mmft.config.schema.model import ModelConfig
from mmft.config.schema.optim import OptimConfig, ScheduleConfig
from mmft.config.schema.paths import ModelPathsConfig, PathsConfig
from mmft.config.schema.task import TaskConfig, TemplateSet
from mmft.config.schema.trainer import CallbacksConfig, CheckpointConfig, DeviceConfig, TrainerConfig
from mmft.config.schema.tune import TuneConfig


@dataclass(kw_only=True)
class TrainConfig:
    """Everything that `mmft train` reads."""

    name: str | None = None
    """Name of the run and of its folder; null: the experiment's name."""
    seed: int = field(0, ge=0, lt=2**63)
    """Seed of weight initialisation, row order, dropout and splits."""
    init: str | None = None
    """A run whose weights initialise this one (use `resume` to resume it). Its encoders must be the same; fusion and
    head start from scratch if they differ, as after a contrastive run."""
    resume: str | None = field(None, not_with={"init": "type resume=RUN to resume, or init=RUN for its weights only"})
    """A run folder to resume, or `last`: the newest unfinished run of this name."""
    plugins: list[str] = field(factory=list)
    """Modules or files with your own options (docs/extend.md). They are imported, which needs --allow-code."""
    modality_report: bool | None = None
    """After the test, report what text alone and image alone achieve, by a linear head on each encoder's features (for
    pairs: by nearest neighbours and a linear probe on the embeddings; for generated texts: the perplexity of the
    answers with images and texts shuffled or left out); null: true, except in a sweep, where it would take too long."""
    report: bool | None = None
    """At the end, predict the test rows (predictions.csv) and write report.html, a page that shows the run; null: true,
    except for the runs of a sweep, which has one page for all."""
    paths: ModelPathsConfig = field(factory=ModelPathsConfig)
    """Where things are written."""
    cache: TrainingCacheConfig = field(factory=TrainingCacheConfig)
    """Whether what frozen layers compute is kept for later epochs and runs."""
    data: DataConfig
    """Rows and batches."""
    model: ModelConfig
    """Encoders and fusion."""
    task: TaskConfig
    """What is learned."""
    tune: TuneConfig
    """What of the encoders is trained."""
    optim: OptimConfig
    """Optimizer."""
    schedule: ScheduleConfig
    """Learning rates by step."""
    checkpoint: CheckpointConfig
    """Which checkpoints are saved."""
    callbacks: CallbacksConfig
    """What runs alongside the training step."""
    trainer: TrainerConfig
    """How training runs."""
    logger: LoggerConfig
    """Where metrics go besides metrics.csv."""

    def reads(self, modality: str) -> bool:
        """Whether rows have an `image` or a `text`: from a column, or a text made of the label or of a prompt."""
        made = modality == "text" and (self.task.captions_labels or self.task.generates)
        return made or getattr(self.data.columns, modality) is not None


@dataclass(kw_only=True)
class CheckConfig(TrainConfig):
    """Everything that `mmft check` reads: the config of `mmft train`, and the audit."""

    audit: AuditConfig = field(factory=AuditConfig)
    """How the rows are audited."""
    out: str | None = None
    """File for all findings, one row each, `.csv` or `.jsonl` by its extension; null: print them only."""
    features: bool = False
    """Also compare rows by what the encoders make of them: near duplicates, suspects (rows whose label disagrees with
    the most similar rows), and how well the labels are separated. The features are kept as with `cache`, so that
    training with frozen encoders does not compute them again."""
    page: str | None = None
    """With `features=true`: an `.html` file that shows suspects and near duplicates with their images; null: none."""


def _nullable(schema: type, name: str, doc: str, nested: dict[str, type], drop: set[str]) -> type:
    """`schema` with every field optional; null means "as in the run"."""
    hints = get_type_hints(schema)
    made: list[Any] = []
    for f in fields(schema):
        if f.name in nested:
            made.append((f.name, nested[f.name], field(factory=nested[f.name])))
        elif f.name not in drop:
            made.append((f.name, hints[f.name] | None, field(None, **_without(f.metadata, drop))))
    names = {"__doc__": doc, "__module__": __name__, "documented_by": schema}
    return make_dataclass(name, made, kw_only=True, namespace=names)


def _without(metadata: Mapping[str, Any], drop: set[str]) -> dict[str, Any]:
    """A field's metadata without an `only_with` whose neighbour is dropped."""
    return {name: rule for name, rule in metadata.items() if name != "only_with" or rule.partition("=")[0] not in drop}


_DOC = "Keys left null are as in the run."
DataColumns = _nullable(ColumnsConfig, "DataColumns", _DOC, nested={}, drop=set())
DataReading = _nullable(ReadingConfig, "DataReading", _DOC, nested={}, drop=set())
_NESTED = {"columns": DataColumns, "reading": DataReading}
_OF_TRAINING = {
    *("train", "val", "fractions", "folds", "fold"),
    *("sampler", "micro_batch_size", "micro_batch_tokens", "overfit", "picture_memory", "augment", "drawing", "subset"),
}
TestData = _nullable(DataConfig, "TestData", _DOC, nested=_NESTED, drop=_OF_TRAINING)
RunData = _nullable(DataConfig, "RunData", _DOC, nested=_NESTED, drop={*_OF_TRAINING, "test"})
RunDecoding = _nullable(DecodingConfig, "RunDecoding", _DOC, nested={}, drop=set())


@dataclass(kw_only=True)
class RunsConfig:
    """Everything that `mmft runs` reads; any other key filters the runs by their configs."""

    paths: PathsConfig = field(factory=PathsConfig)
    """Where runs are read from."""
    status: Literal["running", "completed", "stopped", "failed", "killed", "pruned"] | None = None
    """Show only runs with this status; `killed`: the process of a running run is gone."""
    sort: str = "started"
    """`started` (newest first), `name`, `status`, `seconds`, a metric such as `test/accuracy` (best first), or a key
    of the runs' configs."""
    limit: int | None = field(None, ge=1)
    """Show at most this many runs, after sorting; null: all."""
    compare: str | list[str] | None = None
    """Runs to compare side by side: `RUN,RUN,...`, a sweep's folder, or `all` runs that match the filters."""
    out: str | None = None
    """Output: `-` for CSV on stdout, or a `.csv` or `.jsonl` file; null: a human-readable table."""


@dataclass(kw_only=True)
class ExportConfig:
    """Everything that `mmft export` reads."""

    run: str
    """A run folder, or `last`: the newest finished run under `paths.runs`."""
    out: str | None = None
    """The folder to write; null: `export` in the run's folder. An earlier export there is replaced."""
    format: Literal["hf", "transformers", "open_clip", "sentence_transformers"] = "hf"
    """`hf`: encoder folders that timm and transformers load, with adapters such as LoRA merged into float32 weights, or
    `model.whole` as a whole, as the class of transformers that it was;
    `transformers`: a fine-tuned `model.pair` as a whole, as the class of transformers that it was (a CLIP of open_clip
    as CLIPModel), with processor and tokenizer, or two encoders with `model/fusion=dual` as a VisionTextDualEncoder;
    `open_clip`: a fine-tuned `model.pair` as a whole, as a folder that the package open_clip loads;
    `sentence_transformers`: the models of `transformers`, and nearly any two encoders with `model/fusion=dual`, as a
    folder that SentenceTransformer loads."""
    paths: PathsConfig = field(factory=PathsConfig)
    """Where runs are read from."""


@dataclass(kw_only=True)
class ReportConfig:
    """Everything that `mmft report` reads."""

    run: str
    """A run folder, the folder of a sweep, or `last`: the newest finished run under `paths.runs`."""
    paths: PathsConfig = field(factory=PathsConfig)
    """Where runs are read from."""
    trainer: DeviceConfig = field(factory=DeviceConfig)
    """The device to predict the test rows on, if the run has not done so."""


@dataclass(kw_only=True)
class DoctorConfig:
    """Everything that `mmft doctor` reads."""

    paths: PathsConfig = field(factory=PathsConfig)
    """Where runs would be written."""


@dataclass(kw_only=True)
class PairConfig:
    """`model`: a pretrained pair in place of a run."""

    pair: str | None = None
    """A pretrained pair as it is, without any training, in place of `run`: a folder or a hub name, as in training."""


@dataclass(kw_only=True)
class UseConfig:
    """The keys of every command that applies a run to rows."""

    run: str | None = None
    """A run folder, or `last`: the newest run under `paths.runs`."""
    model: PairConfig = field(factory=PairConfig)
    """A pretrained pair in place of a run."""
    paths: ModelPathsConfig = field(factory=ModelPathsConfig)
    """Where runs are read from, and what frozen layers compute."""
    cache: CacheConfig = field(factory=CacheConfig)
    """Whether what frozen layers compute of the rows is read from the store and kept there; `always`: also what a
    trained encoder computes, for the next time that this run is applied to these rows."""
    data: Any = field(factory=RunData)
    """The rows; keys left null are as in the run."""
    trainer: DeviceConfig = field(factory=DeviceConfig)
    """The device to run on."""


@dataclass(kw_only=True)
class ZeroShotConfig:
    """`zero_shot`: classify images with a run of `task=contrastive`, from the names of the labels alone."""

    labels: str | list[str] | None = None
    """Labels to choose from: a list of names, `run` (those of the run's training rows), or, for `mmft test`, `rows`
    (those of the tested rows); null: no zero-shot classification."""
    templates: TemplateSet | list[str] | None = field(None, only_with="labels=[NAME,NAME]")
    """Prompts for each label, with `{}` for its name, or a set's name as in `task.templates`; null: the run's."""


@dataclass(kw_only=True)
class ClassifyConfig(UseConfig):
    """The keys of every command that answers, or classifies by the names of labels."""

    zero_shot: ZeroShotConfig = field(factory=ZeroShotConfig)
    """Zero-shot classification with a run of `task=contrastive`."""
    task: Any = field(factory=RunDecoding)
    """How a run of `task=generation` writes its answers; keys left null are as in the run."""


@dataclass(kw_only=True)
class TestConfig(ClassifyConfig):
    """Everything that `mmft test` reads."""

    data: Any = field(factory=TestData)
    """The rows; keys left null are as in the run."""
    modalities: bool = False
    """Report what each modality adds: the metrics with images only, with texts only, and with images or texts shuffled
    between rows (four more passes). A learned placeholder replaces the missing modality, or zeros if it was never
    trained (no training row lacked the modality, no `model.modality_dropout`)."""


@dataclass(kw_only=True)
class PredictConfig(ClassifyConfig):
    """Everything that `mmft predict` reads."""

    out: str
    """File for the predictions, `.csv`, `.jsonl` or `.parquet` by its extension; `-`: CSV on stdout."""
    keep: str | list[str] | None = None
    """Columns of the table to write beside the predictions: names, or `all`; null: none."""


@dataclass(kw_only=True)
class EmbedConfig(UseConfig):
    """Everything that `mmft embed` reads."""

    out: str
    """File for the embeddings, by its extension: `.parquet` (a list of numbers per row and modality) or `.npz` (one
    array per modality, nan where a row lacks it)."""


@dataclass(kw_only=True)
class IndexConfig(UseConfig):
    """Everything that `mmft index` reads."""

    out: str
    """Folder for the index. The index of other rows that is there is replaced; one of the same rows is kept."""
    kind: Literal["exact", "approximate"] = "exact"
    """How it is searched: `exact` compares the query with every row (a million take less than a second);
    `approximate` follows a graph of neighbours, which takes longer to make, is faster to search, and may miss a row
    (needs usearch: `pip install 'mmft[search]'`)."""


@dataclass(kw_only=True)
class SearchConfig(UseConfig):
    """Everything that `mmft search` reads."""

    query: str | None = field(None, not_with={"queries": "give one query, or a table of them"})
    """What to search for: a text, or the path of an image (recognised by its ending, such as `.png`)."""
    queries: str | None = None
    """A table of queries in place of `query`, with a column of images, of texts, or both: `data.columns.image` and
    `data.columns.text`, or `image` and `text` where these are null."""
    index: str | None = field(None, not_with={"data.path": "it has the rows already. Leave one of them out"})
    """Folder of an index that `mmft index` made with this run; null: the rows of `data.path` (null: the run's own
    table) are embedded first."""
    top: int = field(10, ge=1)
    """How many rows are found for each query."""
    find: Literal["image", "text", "fused"] | None = None
    """What of the rows is compared with the query; null: images for a text and texts for an image, if the run was
    trained to compare them, otherwise what the query is. `fused`: image and text together, as the head reads them."""
    out: str = "-"
    """Output: `-` for CSV on stdout, or a `.csv`, `.jsonl`, `.parquet` or `.html` file; the latter is a page with the
    images."""


@dataclass(kw_only=True)
class ExplainConfig(ClassifyConfig):
    """Everything that `mmft explain` reads."""

    out: str
    """Output folder, created if it does not exist: a `.png` and a `.json` per row, and per target or task if there are
    several."""
    rows: list[int] | None = None
    """Numbers of the rows to explain, from 0; null: the rows in `ids`."""
    ids: list[str] | None = None
    """Ids of the rows to explain, as in `data.columns.id`; null: the rows in `rows`."""
    label: str | None = None
    """The label, target or task to explain; null: each row's own prediction, for every target or task."""
    points: int = field(64, ge=2)
    """Integration points between an empty row and the row itself: more are slower and more exact. The error of the
    summed weights is reported."""


COMMANDS: dict[str, type] = {
    "train": TrainConfig,
    "check": CheckConfig,
    "test": TestConfig,
    "predict": PredictConfig,
    "embed": EmbedConfig,
    "index": IndexConfig,
    "search": SearchConfig,
    "explain": ExplainConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    "runs": RunsConfig,
    "cache": CacheCommandConfig,
    "doctor": DoctorConfig,
}


def trains(command: str) -> bool:
    """Whether a command's config describes a training run."""
    return issubclass(COMMANDS[command], TrainConfig)
