"""Checks of `task`: its labels, weights and losses, and what is tuned after training."""

from __future__ import annotations

from typing import Any

from mmft.config.checks import check_train
from mmft.config.checks_training import SPLITS, no_val
from mmft.config.schema import TrainConfig
from mmft.config.schema.task import ClassificationConfig
from mmft.config.wording import listed, show


@check_train("task.labels")
def labels_differ(c: TrainConfig) -> str | None:
    """There are at least two labels, each once."""
    labels = getattr(c.task, "labels", None)
    if labels is None or (len(labels) > 1 and len(set(labels)) == len(labels)):
        return None
    return f"{show(labels)}: at least two names, each once"


@check_train("task.vocabulary")
def answers_differ(c: TrainConfig) -> str | None:
    """There are at least two answers, each once, and none is empty."""
    names = getattr(c.task, "vocabulary", None)
    if names is None or (len(names) > 1 and len(set(names)) == len(names) and all(map(str.strip, names))):
        return None
    return f"{show(names)}: at least two answers, each once, none of them empty"


def _of_counting(key: str) -> Any:
    """A check that a key about which answers are frequent is not given with a vocabulary."""

    def rule(c: TrainConfig) -> str | None:
        task: Any = c.task
        if getattr(task, "vocabulary", None) is None or getattr(task, key) == getattr(type(task), key):
            return None
        return "changes nothing, because task.vocabulary says which answers there are. Leave one of them out"

    return rule


for _key in ("answers", "min_count"):
    check_train(f"task.{_key}", "task.vocabulary")(_of_counting(_key))


@check_train("task.class_weights", "task.labels")
def weights_match_labels(c: TrainConfig) -> str | None:
    """A list of weights has one for each label, in a known order."""
    return _weights_match(getattr(c.task, "class_weights", None), getattr(c.task, "labels", None))


@check_train("task.pos_weight", "task.labels", "data.columns.label")
def pos_weights_match_labels(c: TrainConfig) -> str | None:
    """The same of the weights where a label is there; several columns are the labels in their order."""
    columns = c.data.columns.label if isinstance(c.data.columns.label, list) else None
    return _weights_match(getattr(c.task, "pos_weight", None), getattr(c.task, "labels", None) or columns)


def _weights_match(weights: str | list[float] | None, labels: list[str] | None) -> str | None:
    if not isinstance(weights, list):
        return None
    if labels is None:
        return "a list needs to know the labels' order. Type task.labels=[a,b,...]"
    if len(weights) != len(labels):
        return f"{len(weights)} numbers for {len(labels)} labels ({listed(labels)})"
    if min(weights, default=0) < 0 or not any(weights):
        return f"{show(weights)}: each must be at least 0, and one of them above 0"
    return None


@check_train("data.columns.label", "task")
def label_columns_fit(c: TrainConfig) -> str | None:
    """A task of one target has one column."""
    if not isinstance(c.data.columns.label, list) or c.task.several_columns:
        return None
    return f"a list is for a task with several targets; task={c.task.type} has one. Type data.columns.label=COLUMN"


@check_train("task.labels", "data.columns.label")
def columns_are_the_labels(c: TrainConfig) -> str | None:
    """Several columns of labels are all the labels there are."""
    if getattr(c.task, "labels", None) is None or not isinstance(c.data.columns.label, list):
        return None
    return "changes nothing, because the columns of data.columns.label are the labels, in that order. Leave it out"


@check_train("task.separator")
def separator_is_there(c: TrainConfig) -> str | None:
    """Something stands between labels."""
    return "is empty. Type task.separator='|'" if getattr(c.task, "separator", "|") == "" else None


@check_train("task.unknown", "task.labels", "data.columns.label")
def unknown_can_be(c: TrainConfig) -> str | None:
    """Several columns have no label that is unknown."""
    if getattr(c.task, "unknown", "bad") == "bad" or not isinstance(c.data.columns.label, list):
        return None
    return "changes nothing: every column of data.columns.label is a label. Leave it out"


_OF_ONE_LOSS = {
    "huber_delta": "huber",
    "focal_gamma": "focal",
    "gamma_pos": "asymmetric",
    "gamma_neg": "asymmetric",
    "clip": "asymmetric",
}


def _of_one_loss(key: str, loss: str) -> Any:
    """A check that a key of one loss is not given with another."""

    def rule(c: TrainConfig) -> str | None:
        task: Any = c.task
        if getattr(task, key) is None or task.loss == loss:
            return None
        return f"changes nothing, because task.loss={task.loss}. Type task.loss={loss}, or leave it out"

    return rule


for _key, _loss in _OF_ONE_LOSS.items():
    check_train(f"task.{_key}", "task.loss")(_of_one_loss(_key, _loss))


@check_train("task.label_smoothing", "task.loss")
def smoothing_has_its_loss(c: TrainConfig) -> str | None:
    """Focal and asymmetric loss go by how right a row is already; a smoothed target is never right."""
    loss = getattr(c.task, "loss", "")
    if loss not in ("focal", "asymmetric") or not getattr(c.task, "label_smoothing", 0):
        return None
    return f"does not go with task.loss={loss}, which weighs rows by how right they are. Choose one"


@check_train("task.pos_weight", "task.loss")
def positives_are_weighed_once(c: TrainConfig) -> str | None:
    """The asymmetric loss weighs labels that are there and labels that are absent by itself."""
    if getattr(c.task, "pos_weight", "none") == "none" or c.task.loss != "asymmetric":  # type: ignore[attr-defined]
        return None
    return "does not go with task.loss=asymmetric, which weighs present and absent labels itself. Choose one"


@check_train("task.threshold_metric", "task.labels")
def threshold_is_of_two(c: TrainConfig) -> str | None:
    """A threshold is of the second of two classes."""
    labels = getattr(c.task, "labels", None)
    if getattr(c.task, "threshold_metric", None) is None or labels is None or len(labels) == 2:
        return None
    return f"needs two classes, and task.labels has {len(labels)}. Leave it out"


@check_train("task", *SPLITS)
def tuning_can_see(c: TrainConfig) -> str | None:
    """What is tuned on validation rows has some. Thresholds of labels stay 0.5 without; the log says so."""
    task, why = c.task, no_val(c)
    if why is None or not isinstance(task, ClassificationConfig):
        return None
    asked = {"calibration": task.calibration != "none", "threshold_metric": task.threshold_metric is not None}
    given = [f"task.{key}={getattr(task, key)}" for key, is_so in asked.items() if is_so]
    return f"{listed(given)} needs validation rows, but {why}" if given else None
