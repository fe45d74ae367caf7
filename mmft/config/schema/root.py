"""The commands, and everything that each reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mmft.config.fields import field
from mmft.config.schema.as_in_run import RunDecoding, TestData
from mmft.config.schema.audit import AuditConfig
from mmft.config.schema.cache import CacheCommandConfig, TrainingCacheConfig
from mmft.config.schema.data import DataConfig
from mmft.config.schema.generation import GenerationConfig  # noqa: F401 - registers itself
from mmft.config.schema.logger import LoggerConfig
from mmft.config.schema.model import ModelConfig
from mmft.config.schema.optim import OptimConfig, ScheduleConfig
from mmft.config.schema.paths import ModelPathsConfig, PathsConfig
from mmft.config.schema.report import ReportConfig, ReviewConfig
from mmft.config.schema.search import IndexConfig, SearchConfig
from mmft.config.schema.serving import PageConfig, ServingConfig
from mmft.config.schema.task import TaskConfig, TemplateSet
from mmft.config.schema.trainer import CallbacksConfig, CheckpointConfig, TrainerConfig
from mmft.config.schema.tune import TuneConfig
from mmft.config.schema.use import ModelUseConfig, UseConfig


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
    """A run folder to resume, or `last`: the newest unfinished run of this name, else the newest completed one."""
    plugins: list[str] = field(factory=list)
    """Modules or files with your own options (docs/extend.md). They are imported, which needs --allow-code."""
    modality_report: bool | None = None
    """After the test, report what text alone and image alone achieve, by a linear head on each encoder's features (for
    pairs: by nearest neighbours and a linear probe on the embeddings; for generated texts: the perplexity of the
    answers with images and texts shuffled or left out); null: true, except in a sweep, where it would take too long."""
    report: bool | None = None
    """At the end, predict the test rows (predictions.csv) and write report.html, a page that shows the run; null: true,
    except for the runs of a sweep, which has one page for all."""
    attributions: int | None = field(None, ge=0)
    """With `report`: test rows of which the page shows what image parts and words support the prediction, as in
    `mmft explain`; null: 4, and none for `task=generation`, where each takes long; 0: none."""
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
    """Output: `-` for CSV on stdout, or a `.csv` or `.jsonl` file; with `compare` also an `.html` file, a page with the
    runs side by side; null: a human-readable table."""


@dataclass(kw_only=True)
class ExportConfig:
    """Everything that `mmft export` reads."""

    run: str
    """A run folder, or `last`: the newest finished run under `paths.runs`."""
    out: str | None = None
    """The folder to write; null: `export` in the run's folder. An earlier export there is replaced."""
    format: Literal["hf", "transformers", "open_clip", "sentence_transformers", "onnx", "torch_export"] = "hf"
    """`hf`: encoder folders that timm and transformers load, with adapters such as LoRA merged into float32 weights, or
    `model.whole` as a whole, as the class of transformers that it was;
    `transformers`: a fine-tuned `model.pair` as a whole, as the class of transformers that it was (a CLIP of open_clip
    as CLIPModel), with processor and tokenizer, two encoders with `model/fusion=dual` as a VisionTextDualEncoder, or a
    language model with `model/fusion=projector` as a LlavaForConditionalGeneration;
    `open_clip`: a fine-tuned `model.pair` as a whole, as a folder that the package open_clip loads;
    `sentence_transformers`: the models of `transformers`, and nearly any two encoders with `model/fusion=dual`, as a
    folder that SentenceTransformer loads; `onnx`: the whole model, images and token ids to answers, for onnxruntime
    (docs/export.md); `torch_export`: the same as a program of torch.export."""
    quantize: Literal["int8"] | None = field(None, only_with="format==onnx")
    """`int8`: weights of linear layers and embeddings in 8 bits, a quarter of the size; null: float32."""
    paths: PathsConfig = field(factory=PathsConfig)
    """Where runs are read from."""


@dataclass(kw_only=True)
class DoctorConfig:
    """Everything that `mmft doctor` reads."""

    paths: PathsConfig = field(factory=PathsConfig)
    """Where runs would be written."""


@dataclass(kw_only=True)
class ZeroShotConfig:
    """`zero_shot`: classify images with a run of `task=contrastive`, from the names of the labels alone."""

    labels: str | list[str] | None = None
    """Labels to choose from: a list of names, `run` (those of the run's training rows), or, for `mmft test`, `rows`
    (those of the tested rows); null: no zero-shot classification."""
    templates: TemplateSet | list[str] | None = field(None, only_with="labels=[NAME,NAME]")
    """Prompts for each label, with `{}` for its name, or a set's name as in `task.templates`; null: the run's."""


@dataclass(kw_only=True)
class AnswerConfig(ModelUseConfig):
    """The keys of every command that answers, or classifies by the names of labels."""

    zero_shot: ZeroShotConfig = field(factory=ZeroShotConfig)
    """Zero-shot classification with a run of `task=contrastive`."""
    task: Any = field(factory=RunDecoding)
    """How a run of `task=generation` writes its answers; keys left null are as in the run."""


@dataclass(kw_only=True)
class ClassifyConfig(UseConfig, AnswerConfig):
    """The keys of every command that answers for the rows of a table."""


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


@dataclass(kw_only=True)
class ServeConfig(ServingConfig, AnswerConfig):
    """Everything that `mmft serve` reads."""


@dataclass(kw_only=True)
class DemoConfig(PageConfig, AnswerConfig):
    """Everything that `mmft demo` reads."""


class Command(NamedTuple):
    """A sub-command: a function of its name in a module of its name in `mmft.commands`."""

    config: type
    """Everything that it reads."""
    summary: str
    """What it does."""


COMMANDS = {
    "train": Command(TrainConfig, "fine-tune an image encoder and a text encoder on rows; writes a run folder"),
    "check": Command(
        CheckConfig,
        "check config, rows and model without training: all errors, bad and duplicate rows, trainable parameters",
    ),
    "test": Command(TestConfig, "evaluate a run on rows"),
    "predict": Command(PredictConfig, "predict every row of a table with a run"),
    "embed": Command(EmbedConfig, "write the embeddings of every row's image and text"),
    "index": Command(IndexConfig, "embed the rows of a table once, to search among them"),
    "search": Command(SearchConfig, "find the rows that are most like a text or an image"),
    "explain": Command(ExplainConfig, "show which image regions and words support a prediction"),
    "report": Command(
        ReportConfig,
        "write a page that shows a run or a sweep: metrics, curves, mistakes with their images",
    ),
    "serve": Command(ServeConfig, "answer requests over HTTP: predictions and embeddings of rows in JSON, or of files"),
    "demo": Command(DemoConfig, "a page in the browser to try a run, and to mark its answers right or wrong"),
    "review": Command(
        ReviewConfig,
        "sum up people's marks of a run's answers: agreement, corrected accuracy, suspects of wrong labels",
    ),
    "export": Command(
        ExportConfig, "write a run's model for other programs: transformers, timm, open_clip, onnxruntime and others"
    ),
    "runs": Command(RunsConfig, "list, sort and compare runs; any KEY=VALUE of mmft train is a filter"),
    "cache": Command(CacheCommandConfig, "what frozen layers computed and is kept for later runs: list, verify, clear"),
    "doctor": Command(DoctorConfig, "diagnose this machine: packages, devices, folders"),
}


def trains(command: str) -> bool:
    """Whether a command's config describes a training run."""
    return issubclass(COMMANDS[command].config, TrainConfig)
