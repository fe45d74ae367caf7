"""`task`: what is learned: loss, metrics, targets, answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class TaskConfig(OptionConfig):
    """`task`: base of all tasks, and what is known of a task before it is built.

    The task's class has this class as its `facts`, so that each fact stands here alone. It needs no torch.

    Attributes:
        needs_both: a row is an image and a text that are looked at together; without either it is bad.
        pairwise: the loss is over all pairs of rows of the logical batch, so that each modality is embedded by itself.
        has_classes: each row is of one class; `Task.classes` gives it.
        has_label_names: labels are names, which can be counted; `Task.label_names` gives them.
        predicts_numbers: a prediction is a number and not a text.
        mixes_targets: the loss takes `Batch.mixed_target`.
        several_columns: `data.columns.label` may name several columns.
    """

    group_path = "task"

    needs_both: ClassVar[bool] = False
    pairwise: ClassVar[bool] = False
    has_classes: ClassVar[bool] = False
    has_label_names: ClassVar[bool] = False
    predicts_numbers: ClassVar[bool] = False
    mixes_targets: ClassVar[bool] = False
    several_columns: ClassVar[bool] = False

    @property
    def parts(self) -> Mapping[str, TaskConfig]:
        """The tasks that it consists of, by the column of their labels; nothing: it is a single one."""
        return {}


@option("task", "classification", builds="mmft.tasks.classification:Classification")
@dataclass(kw_only=True)
class ClassificationConfig(TaskConfig):
    """One of several classes per row, by cross-entropy or focal loss."""

    has_classes = True
    has_label_names = True
    mixes_targets = True

    labels: list[str] | None = None
    """Label names in order; null: those of the training rows, sorted (numbers by value)."""
    label_smoothing: float = field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all classes."""
    class_weights: Literal["none", "balanced"] | list[float] = "none"
    """`balanced`: rows / (classes x rows of the class) on the training rows; a list: one number per label."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """`focal`: rows that are right already count for less (Lin et al. 2017)."""
    focal_gamma: float | None = field(None, ge=0, only_with="loss==focal")
    """How much less: (1 - p) to this power, of the probability p of the right class; null: 2."""
    calibration: Literal["none", "temperature"] = field("none", needs_val=True)
    """`temperature`: after training logits are divided by a number, fitted on the validation rows and kept with the
    model, so that probabilities can be believed."""
    threshold_metric: Literal["f1", "f1_macro", "balanced_accuracy"] | None = field(None, needs_val=True)
    """Of two classes the second is predicted above the threshold that makes this best on the validation rows, found
    after training and kept with the model; null: the likelier one is predicted."""


@option("task", "multi_label", builds="mmft.tasks.multi_label:MultiLabel")
@dataclass(kw_only=True)
class MultiLabelConfig(TaskConfig):
    """Any number of labels per row: a list, a text with separators, or 0/1 columns (`data.columns.label=[cat,dog]`)."""

    has_label_names = True
    several_columns = True

    labels: list[str] | None = None
    """Label names in order; null: those of the training rows, sorted (numbers by value), or the label columns."""
    separator: str = "|"
    """Between the labels in one cell, and between those that are predicted."""
    empty: Literal["bad", "no_labels"] = "bad"
    """An empty cell: `bad`, its labels are not known; `no_labels`, it has none of them. An empty list has none."""
    unknown: Literal["bad", "ignored"] = "bad"
    """A row with a label that the training rows (or `labels`) do not have: it is `bad`, or the label is `ignored`."""
    loss: Literal["bce", "asymmetric"] = "bce"
    """Binary cross-entropy, or the asymmetric loss (Ben-Baruch et al. 2021), which thinks little of absent labels."""
    pos_weight: Literal["none", "balanced"] | list[float] = "none"
    """Factor of the loss where a label is there; `balanced`: training rows without the label / rows with it."""
    label_smoothing: float = field(0.0, ge=0, lt=1)
    """A label's target is this much nearer to one half: with 0.1 it is 0.05 or 0.95."""
    gamma_pos: float | None = field(None, ge=0, only_with="loss==asymmetric")
    """Asymmetric loss: labels that are there and found already count for less, the more the larger it is; null: 0."""
    gamma_neg: float | None = field(None, ge=0, only_with="loss==asymmetric")
    """Asymmetric loss: the same of labels that are absent; null: 4."""
    clip: float | None = field(None, ge=0, lt=1, only_with="loss==asymmetric")
    """Asymmetric loss: a label that is absent costs nothing below this probability; null: 0.05."""
    thresholds: Literal["tuned"] | float = field("tuned", gt=0, lt=1)
    """Above which probability a label is predicted. `tuned`: for each label what makes its F1 on the validation rows
    best, found after training and kept with the model (0.5 until then); a number: for all."""


_COUNTED = {"vocabulary": "it says which answers there are. Leave one of them out"}


@option("task", "question_answering", builds="mmft.tasks.question_answering:QuestionAnswering")
@dataclass(kw_only=True)
class QuestionAnsweringConfig(TaskConfig):
    """The answer to a question (the text) about the image: one of a vocabulary, learned from several annotators'.

    `data.columns.label` has a row's answers, one for each annotator: a list, a text with separators, or a single one.
    """

    has_label_names = True

    answers: int | None = field(3129, ge=2, not_with=_COUNTED)
    """Size of the vocabulary at most: the answers that are given in most training rows; null: no limit. The default is
    that of VQA v2's usual vocabulary."""
    min_count: int = field(2, ge=1, not_with=_COUNTED)
    """Training rows in which an answer must be given to be in the vocabulary."""
    vocabulary: list[str] | None = None
    """The answers themselves, in the place of those of the training rows; null: the training rows'."""
    separator: str = "|"
    """Between the answers in one cell."""
    normalise: bool = True
    """Answers are counted and compared as the VQA evaluation writes them: lower case, no articles, digits for number
    words, no punctuation."""
    loss: Literal["bce", "cross_entropy"] = "bce"
    """`bce`: each answer by itself against what it is worth (Teney et al. 2018); `cross_entropy`: against all others,
    where a row without an answer of the vocabulary teaches nothing."""


@option("task", "regression", builds="mmft.tasks.regression:Regression")
@dataclass(kw_only=True)
class RegressionConfig(TaskConfig):
    """A number per row, or several (`data.columns.label=[a,b]`)."""

    predicts_numbers = True
    several_columns = True

    loss: Literal["mse", "l1", "huber"] = "mse"
    """Squared error, absolute error, or Huber's: squared where it is small, absolute where it is large."""
    huber_delta: float | None = field(None, gt=0, only_with="loss==huber")
    """Where Huber's loss goes over, in standard deviations of the target if they are scaled; null: 1."""
    scale: Literal["standard", "none"] = "standard"
    """`standard`: the model learns targets of mean 0 and deviation 1; predictions are in the targets' own units."""


@option("task", "contrastive", builds="mmft.tasks.contrastive:Contrastive")
@dataclass(kw_only=True)
class ContrastiveConfig(TaskConfig):
    """Which image and which text belong together, over all pairs of a batch; needs no label.

    Where `data.columns.label` is given, it is measured how well the embeddings tell the labels apart: by the nearest
    prompt (zero-shot), and at the end by nearest neighbours and by a linear probe.

    Two small encoders that had not seen each other learned most, on 1,600 rows, with `optim.lr=1e-4
    optim.layer_decay=0.8` (tools/bench/retrieval.py).
    """

    needs_both = pairwise = predicts_numbers = True

    loss: Literal["info_nce", "sigmoid"] = "info_nce"
    """`info_nce`: each row among all others, both ways (CLIP); `sigmoid`: each pair by itself (SigLIP)."""
    temperature: float | None = field(None, gt=0)
    """What similarities are divided by at first; it is learned; null: 0.07, or 0.1 for `sigmoid`."""
    templates: list[str] | None = None
    """Prompts of a label for zero-shot classification, whose embeddings' mean counts, such as
    `"task.templates=['an image of {}']"`; null: the label's name alone. Underscores in it are read as blanks."""
    compared_rows: int = field(32, ge=1)
    """Rows that are compared at once, which follows `data.batch_size`: the bias of `sigmoid` begins at minus its
    logarithm. SigLIP's own -10 is that of 22,000 rows; it is learned, but short training would hardly move it."""


@option("task", "matching", builds="mmft.tasks.matching:Matching")
@dataclass(kw_only=True)
class MatchingConfig(TaskConfig):
    """Whether a row's text belongs to its image; needs no label: texts that do not are taken from other rows.

    Where `data.columns.label` is given it is 1, true or yes, or 0, false or no where the text does not belong to it.
    """

    needs_both = True

    candidates: int = field(7, ge=0)
    """Texts of other rows of the batch, of which one is drawn to be the image's negative, the likelier the better the
    model finds it to fit. 1: any other row's; 0: there are only the rows whose label is 0. Each costs a pass through
    fusion and head."""


@option("task", "several", builds="mmft.tasks.several:Several")
@dataclass(kw_only=True)
class SeveralConfig(TaskConfig):
    """Several tasks at once on one model: a weighted sum of their losses. A row may lack some of their labels."""

    several_columns = True

    tasks: dict[str, TaskConfig]
    """The tasks, by the column of their labels; `data.columns.label` lists the same columns. An option's name alone
    stands for its defaults: `task.tasks={kind:classification,price:{type:regression,loss:l1}}`. With other letters
    than those of ASCII the whole is quoted: `"task.tasks='{größe:regression,kind:classification}'"`."""
    loss_weights: dict[str, float] | None = None
    """Weights of the tasks' losses, by column; null, or a column that is not there: 1."""

    @property
    def parts(self) -> Mapping[str, TaskConfig]:
        """`tasks`."""
        return self.tasks
