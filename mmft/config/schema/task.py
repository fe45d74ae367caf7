"""`task`: what is learned: loss, metrics, targets, predictions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class TaskConfig(OptionConfig):
    """`task`: base of all tasks, and what is known about a task before it is built.

    The task class refers to this one as its `facts`, so each fact is stated once, without importing torch.

    Attributes:
        needs_both: every row needs both an image and a text; a row without either is bad.
        pairwise: the loss is over all pairs of rows of the logical batch, so each modality is embedded separately.
        has_classes: each row belongs to one class, given by `Task.classes`.
        has_label_names: labels are names, which can be counted, given by `Task.label_names`.
        independent_labels: a row has any number of labels, each right or wrong by itself.
        predicts_numbers: a prediction is a number, not a text.
        mixes_targets: the loss accepts `Batch.mixed_target`.
        generates: predictions are texts written by a language model, which needs a fusion that `generates`.
        several_columns: `data.columns.label` may name several columns.
        unseen_labels: what becomes of evaluated rows with a label that no training row has, for a warning.
    """

    group_path = "task"

    needs_both: ClassVar[bool] = False
    pairwise: ClassVar[bool] = False
    has_classes: ClassVar[bool] = False
    has_label_names: ClassVar[bool] = False
    independent_labels: ClassVar[bool] = False
    predicts_numbers: ClassVar[bool] = False
    mixes_targets: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    several_columns: ClassVar[bool] = False
    unseen_labels: ClassVar[str] = "They are mistakes, without loss"

    def start_from_pair(self, *, sigmoid: bool) -> None:
        """Takes over from a pretrained pair what is left to it; most tasks have a loss of their own.

        Args:
            sigmoid: it was pretrained with SigLIP's loss; otherwise with CLIP's.
        """

    @property
    def parts(self) -> Mapping[str, TaskConfig]:
        """The component tasks by label column; empty for a single task."""
        return {}

    @property
    def captions_labels(self) -> bool:
        """Whether a row's text is made of its label, so that no text column is needed."""
        return False


TemplateSet = Literal["photo", "simple", "openai_imagenet"]
"""Names of `mmft.tasks.template_sets`."""

_BY_DIFFICULTY = "it weights rows by difficulty, and smoothed targets are never reached. Choose one"


@option("task", "classification", builds="mmft.tasks.classification:Classification")
@dataclass(kw_only=True)
class ClassificationConfig(TaskConfig):
    """One class per row, with cross-entropy or focal loss."""

    has_classes = True
    has_label_names = True
    mixes_targets = True

    labels: list[str] | None = None
    """Label names in order; null: those in the training rows, sorted (numbers by value)."""
    label_smoothing: float = field(0.0, ge=0, lt=1, not_with={"loss==focal": _BY_DIFFICULTY})
    """Share of the target that is spread evenly over all classes."""
    class_weights: Literal["none", "balanced"] | list[float] = "none"
    """`balanced`: rows / (classes x rows of the class), from the training rows; a list: one weight per label."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """`focal` down-weights rows that are already classified well (Lin et al. 2017)."""
    focal_gamma: float | None = field(None, ge=0, only_with="loss==focal")
    """Exponent of (1 - p) in the weight of a row, where p is the probability of the true class; null: 2."""
    head_init: Literal["random", "prompts"] = "random"
    """Where the head starts: from random weights, or as the zero-shot classifier of images by the labels' names, which
    needs `model.pair` with `model/fusion=pretrained`."""
    templates: TemplateSet | list[str] | None = field(None, only_with="head_init==prompts")
    """Prompts for each label, whose embeddings are averaged, such as `"task.templates=['an image of {}']"`, or the set
    `photo`, `simple` or `openai_imagenet`; null: the label's name alone. Underscores in names become spaces."""
    calibration: Literal["none", "temperature"] = field("none", needs_val=True)
    """`temperature`: after training, fit a temperature for the logits on the validation rows and save it with the
    model, so that probabilities are calibrated."""
    threshold_metric: Literal["f1", "f1_macro", "balanced_accuracy"] | None = field(None, needs_val=True)
    """For two classes: after training, choose the probability threshold for the second class that maximises this
    metric on the validation rows, and save it with the model; null: predict the more likely class."""


@option("task", "multi_label", builds="mmft.tasks.multi_label:MultiLabel")
@dataclass(kw_only=True)
class MultiLabelConfig(TaskConfig):
    """Any number of labels per row: a list, a text with separators, or 0/1 columns (`data.columns.label=[cat,dog]`)."""

    has_label_names = True
    independent_labels = True
    several_columns = True

    labels: list[str] | None = None
    """Label names in order; null: those in the training rows, sorted (numbers by value), or the label columns."""
    separator: str = "|"
    """Separator between labels in a cell, and between predicted labels."""
    empty: Literal["bad", "no_labels"] = "bad"
    """Meaning of an empty cell: `bad`, its labels are unknown; `no_labels`, it has none. An empty list has none."""
    unknown: Literal["bad", "ignored"] = "bad"
    """A label that is not in `labels` (if null: in the training rows): its row is `bad`, or the label is `ignored`."""
    loss: Literal["bce", "asymmetric"] = "bce"
    """Binary cross-entropy, or the asymmetric loss (Ben-Baruch et al. 2021), which down-weights absent labels."""
    pos_weight: Literal["none", "balanced"] | list[float] = field(
        "none", not_with={"loss==asymmetric": "it weights present and absent labels itself. Choose one"}
    )
    """Weight of the loss for present labels; `balanced`: training rows without the label / rows with it."""
    label_smoothing: float = field(0.0, ge=0, lt=1, not_with={"loss==asymmetric": _BY_DIFFICULTY})
    """Moves targets towards one half: 0.1 turns 0 and 1 into 0.05 and 0.95."""
    gamma_pos: float | None = field(None, ge=0, only_with="loss==asymmetric")
    """Asymmetric loss: focusing exponent for present labels; larger values down-weight easy ones more; null: 0."""
    gamma_neg: float | None = field(None, ge=0, only_with="loss==asymmetric")
    """Asymmetric loss: focusing exponent for absent labels; null: 4."""
    clip: float | None = field(None, ge=0, lt=1, only_with="loss==asymmetric")
    """Asymmetric loss: probability below which an absent label contributes no loss; null: 0.05."""
    thresholds: Literal["tuned"] | float = field("tuned", gt=0, lt=1)
    """Probability above which a label is predicted, for all labels; `tuned`: per label, the threshold with the best F1
    on the validation rows, found after training and saved with the model (0.5 until then)."""


_COUNTED = {"vocabulary": "it already lists the answers. Leave one of them out"}


@option("task", "question_answering", builds="mmft.tasks.question_answering:QuestionAnswering")
@dataclass(kw_only=True)
class QuestionAnsweringConfig(TaskConfig):
    """Visual question answering: the text is a question about the image, the answer is one of a vocabulary.

    `data.columns.label` holds a row's answers, one per annotator: a list, a text with separators, or a single answer.
    """

    has_label_names = True

    answers: int | None = field(3129, ge=2, not_with=_COUNTED)
    """Largest vocabulary size; the answers given in the most training rows are kept; null: no limit. The default is
    the usual size for VQA v2."""
    min_count: int = field(2, ge=1, not_with=_COUNTED)
    """Training rows in which an answer must occur to enter the vocabulary."""
    vocabulary: list[str] | None = None
    """The vocabulary itself, as a list of answers; null: it is built from the training rows."""
    separator: str = "|"
    """Separator between answers in a cell."""
    normalise: bool = True
    """Count and compare answers as normalised by the VQA evaluation: lower case, no articles, digits for number words,
    no punctuation."""
    loss: Literal["bce", "cross_entropy"] = "bce"
    """`bce`: each answer independently, with its soft score as target (Teney et al. 2018); `cross_entropy`: a softmax
    over all answers, where a row without an answer in the vocabulary contributes no loss."""


@option("task", "regression", builds="mmft.tasks.regression:Regression")
@dataclass(kw_only=True)
class RegressionConfig(TaskConfig):
    """One number per row, or several (`data.columns.label=[a,b]`)."""

    predicts_numbers = True
    several_columns = True

    loss: Literal["mse", "l1", "huber"] = "mse"
    """Squared error, absolute error, or Huber loss: squared for small errors, absolute for large ones."""
    huber_delta: float | None = field(None, gt=0, only_with="loss==huber")
    """Error at which the Huber loss turns linear, in standard deviations of the target if scaled; null: 1."""
    scale: Literal["standard", "none"] = "standard"
    """`standard`: train on targets of mean 0 and standard deviation 1; predictions keep the original units."""


@option("task", "contrastive", builds="mmft.tasks.contrastive:Contrastive")
@dataclass(kw_only=True)
class ContrastiveConfig(TaskConfig):
    """Match images with texts, over all pairs of a batch; needs no label.

    If `data.columns.label` is given, the embeddings are evaluated on the labels: by the nearest prompt (zero-shot),
    and at the end by nearest neighbours and a linear probe.

    On 1,600 rows, two small encoders without joint pretraining learned best with `optim.lr=1e-4
    optim.layer_decay=0.8` (tools/bench/retrieval.py).
    """

    needs_both = pairwise = predicts_numbers = True
    unseen_labels = "zero_shot/accuracy leaves them out; mmft test zero_shot.labels=rows chooses among all of the rows"

    loss: Literal["info_nce", "sigmoid"] | None = None
    """`info_nce`: each row against all others, in both directions (CLIP); `sigmoid`: each pair alone (SigLIP); null:
    the loss that `model.pair` was pretrained with, or `info_nce`."""
    temperature: float | None = field(None, gt=0)
    """Initial temperature that divides the similarities; it is learned; null: that of `model.pair`, or 0.07, or 0.1 for
    `sigmoid`."""
    templates: TemplateSet | list[str] | None = field(None, only_with="data.columns.label=COLUMN")
    """Prompts for each label in zero-shot classification, whose embeddings are averaged, such as
    `"task.templates=['an image of {}']"`, or a set of CLIP's: `photo` (`a photo of a {}.`), `simple` (7) or
    `openai_imagenet` (80); null: the label's name alone. Underscores in names become spaces."""
    texts: Literal["column", "templates"] = "column"
    """`column`: texts are those of `data.columns.text`; `templates`: a row's text is its label in one of
    `task.templates`, drawn anew for each row and epoch, so that labelled images are trained on by the loss of
    pretraining (FLYP; Goyal et al., 2023, arXiv 2212.00638; it also uses `task.same_text=negative`). The only metric is
    then `zero_shot/accuracy`, and `mmft predict` and `mmft test` classify by the run's labels."""
    same_text: Literal["positive", "negative"] = "positive"
    """Rows with the same text, or captions of the same label: `positive`, they belong together, each image to every
    such text; `negative`, they do not, as in the losses of CLIP, Hugging Face and FLYP. Rows with the same image or
    group belong together either way."""
    compared_rows: int = field(32, ge=1)
    """Rows compared at once, by default `data.batch_size`. The bias of `sigmoid` starts at minus its logarithm;
    SigLIP's own -10 corresponds to 22,000 rows. The bias is learned, but short training would hardly move it."""

    @property
    def captions_labels(self) -> bool:
        """Whether `texts` is `templates`."""
        return self.texts == "templates"

    def start_from_pair(self, *, sigmoid: bool) -> None:
        """Takes over the loss."""
        self.loss = self.loss or ("sigmoid" if sigmoid else "info_nce")


@option("task", "matching", builds="mmft.tasks.matching:Matching")
@dataclass(kw_only=True)
class MatchingConfig(TaskConfig):
    """Predict whether a text matches its image. Needs no label: negatives are texts of other rows.

    If `data.columns.label` is given, its values are 1, true or yes for a match and 0, false or no otherwise.
    """

    needs_both = True

    candidates: int = field(7, ge=0)
    """Texts from other rows of the batch among which each image's hard negative is sampled, by the model's matching
    scores; 1: a random text; 0: only rows with label 0 are negatives. Each candidate costs a pass through fusion and
    head."""


@option("task", "several", builds="mmft.tasks.several:Several")
@dataclass(kw_only=True)
class SeveralConfig(TaskConfig):
    """Multi-task training: a weighted sum of the losses of several tasks. A row may lack some of the labels."""

    several_columns = True

    tasks: dict[str, TaskConfig]
    """The tasks by label column; `data.columns.label` lists the same columns. An option's name alone means its
    defaults: `task.tasks={kind:classification,price:{type:regression,loss:l1}}`. With letters outside ASCII, quote the
    whole value: `"task.tasks='{größe:regression,kind:classification}'"`."""
    loss_weights: dict[str, float] | None = None
    """Weights of the tasks' losses by label column; null, and for columns not listed: 1."""

    @property
    def parts(self) -> Mapping[str, TaskConfig]:
        """`tasks`."""
        return self.tasks


TEXT_METRICS = ("exact_match", "token_f1", "vqa_accuracy", "anls", "rouge_l", "bleu", "chrf", "cider")
"""The metrics of `mmft.tasks.metrics.texts`."""


def has_place(template: str) -> bool:
    """Whether a template of `templates` has one `{}` for the label's name, and no other braces."""
    return re.findall(r"\{\}|[{}]", template) == ["{}"]
