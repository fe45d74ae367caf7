"""Rules about `task`: labels, weights and losses, the modalities and rows that it needs, and several tasks."""

from __future__ import annotations

import re
from typing import Any

from mmft.config.quoted import list_of
from mmft.config.rules.base import lone_modality, rule, use_rule
from mmft.config.schema.data import names_of
from mmft.config.schema.root import TrainConfig
from mmft.config.schema.task import TEXT_METRICS, has_place
from mmft.config.validate import MUST
from mmft.config.wording import did_you_mean, listed, show

_PLACE = re.compile(r"\{(\w+)\}")
"""What looks like a place in a prompt."""

# ---------------------------------------------------------------- labels and their weights


@rule("data.columns.label", "data.columns.messages", "task")
def _label_columns_fit(c: TrainConfig) -> str | None:
    if not c.data.columns.answers and not c.task.needs_both:
        column = f"[{','.join(c.task.parts)}]" if c.task.parts else "COLUMN"
        return f"{MUST} to train. Type data.columns.label={column}"
    if isinstance(c.data.columns.label, list) and not c.task.several_columns:
        return f"a list needs a task with several targets; task={c.task.type} has one. Type data.columns.label=COLUMN"
    return None


for _key in ("labels", "vocabulary"):

    @rule(f"task.{_key}")
    def _names_differ(c: TrainConfig, key: str = _key) -> str | None:
        names = getattr(c.task, key)
        if names is None or (len(names) > 1 and len(set(names)) == len(names) and all(map(str.strip, names))):
            return None
        return f"{show(names)}: give at least two names, without duplicates or empty ones"


for _key, _default in (("labels", None), ("unknown", "bad")):

    @rule(f"task.{_key}", "data.columns.label")
    def _columns_are_the_labels(c: TrainConfig, key: str = _key, default: str | None = _default) -> str | None:
        if getattr(c.task, key) == default or not isinstance(c.data.columns.label, list):
            return None
        return "changes nothing, because data.columns.label lists the label columns in order. Leave it out"


for _key in ("class_weights", "pos_weight"):

    @rule(f"task.{_key}", "task.labels", "data.columns.label")
    def _weights_match_labels(c: TrainConfig, key: str = _key) -> str | None:
        columns = c.data.columns.label if isinstance(c.data.columns.label, list) else None
        weights, labels = getattr(c.task, key), getattr(c.task, "labels", None) or columns
        if not isinstance(weights, list):
            return None
        if labels is None:
            return "a list needs labels in a fixed order. Type task.labels=[a,b,...]"
        if len(weights) != len(labels):
            return f"{len(weights)} numbers for {len(labels)} labels ({listed(labels)})"
        if min(weights, default=0) < 0 or not any(weights):
            return f"{show(weights)}: each must be at least 0, and at least one above 0"
        return None


@rule("task.separator")
def _separator_is_there(c: TrainConfig) -> str | None:
    return "is empty. Type task.separator='|'" if getattr(c.task, "separator", "|") == "" else None


@rule("task.head_init", "model.fusion", "data.columns.image")
def _head_has_prompts(c: TrainConfig) -> str | None:
    if getattr(c.task, "head_init", "random") == "random":
        return None
    if not c.model.fusion.of_pair:
        return (
            "prompts needs a pretrained pair. Type model.pair=FOLDER_OR_NAME model/fusion=pretrained, or leave it out"
        )
    return None if c.data.columns.image else "prompts classify images. Type data.columns.image=COLUMN, or leave it out"


@rule("task.threshold_metric", "task.labels")
def _threshold_is_of_two(c: TrainConfig) -> str | None:
    labels = getattr(c.task, "labels", None)
    if getattr(c.task, "threshold_metric", None) is None or labels is None or len(labels) == 2:
        return None
    return f"needs two classes, but task.labels has {len(labels)}. Leave it out"


# ---------------------------------------------------------------- both modalities, pairs of rows


@rule("data.columns", "task")
def _both_modalities_are_there(c: TrainConfig) -> str | None:
    missing = lone_modality(c)
    if missing is None or not c.task.needs_both:
        return None
    return f"{MUST}: task={c.task.type} pairs images with texts. Type data.columns.{missing}=COLUMN"


@rule("task.texts", "data.columns.text", "data.columns.label")
def _captions_are_made_of_labels(c: TrainConfig) -> str | None:
    if not c.task.captions_labels:
        return None
    if c.data.columns.label is None:
        return "templates makes the texts of labels. Type data.columns.label=COLUMN"
    if c.data.columns.text is not None:
        return (
            f"templates makes the texts of labels, so data.columns.text={show(c.data.columns.text)} would not be read. "
            "Type data.columns.text=null, or task.texts=column"
        )
    return None


@rule("modality_report", "task", "data.columns.label")
def _report_has_labels(c: TrainConfig) -> str | None:
    if not c.modality_report or not c.task.needs_both or c.data.columns.label is not None:
        return None
    return f"true needs labels, for a report on task={c.task.type}. Type data.columns.label=COLUMN, or leave it out"


@rule("data.batch_size", "task", "model.auxiliary.alignment", "callbacks.gradient_accumulation.schedule")
def _a_batch_has_other_rows(c: TrainConfig) -> str | None:
    schedule = c.callbacks.gradient_accumulation.schedule or {0: c.data.batch_size}
    if min(schedule.values()) > 1:
        return None
    if c.task.pairwise or getattr(c.task, "candidates", None):
        who = f"task={c.task.type}"
    elif c.model.auxiliary.alignment == "contrastive":
        who = "model.auxiliary.alignment=contrastive"
    else:
        return None
    return f"{who} compares the rows of a batch, so a batch needs at least two. Type data.batch_size=32"


@rule("trainer.strategy", "task", "model.auxiliary.alignment")
def _steps_can_be_sharded(c: TrainConfig) -> str | None:
    # These steps bypass the model's `forward`, around which sharded weights are gathered.
    if c.trainer.strategy != "fsdp":
        return None
    if c.task.needs_both or c.task.generates:
        who = f"task={c.task.type}"
    elif c.model.auxiliary.alignment == "contrastive":
        who = "model.auxiliary.alignment=contrastive"
    else:
        return None
    return f"fsdp does not go with {who} yet. Type trainer.strategy=ddp"


@rule("task.compared_rows", "task.loss", "data.batch_size")
def _compared_rows_are_read(c: TrainConfig) -> str | None:
    task: Any = c.task
    if task.loss == "sigmoid" or task.compared_rows == c.data.batch_size:
        return None
    return "changes nothing, because task.loss=info_nce. Type task.loss=sigmoid, or leave it out"


@rule("task.candidates", "data.columns.label")
def _something_does_not_match(c: TrainConfig) -> str | None:
    if getattr(c.task, "candidates", 1) or c.data.columns.label is not None:
        return None
    return "0: without labels every row is a match. Type task.candidates=7, or data.columns.label=COLUMN"


# ---------------------------------------------------------------- generated texts


@rule("data.columns.image", "task")
def _there_is_an_image_to_write_about(c: TrainConfig) -> str | None:
    if not c.task.generates or c.data.columns.image is not None:
        return None
    return f"{MUST}: task={c.task.type} writes about images. Type data.columns.image=COLUMN"


@rule("data.columns.messages", "task")
def _conversations_are_continued(c: TrainConfig) -> str | None:
    if c.data.columns.messages is None or c.task.generates:
        return None
    return f"conversations need task=generation, but the task is {c.task.type}. Type task=generation, or leave it out"


@rule("task.prompt", "data.columns.text", "data.columns.messages")
def _prompt_and_texts_go_together(c: TrainConfig) -> str | None:
    prompt, text = getattr(c.task, "prompt", None), c.data.columns.text
    if not c.task.generates:
        return None
    if c.data.columns.messages is not None:
        return None if prompt is None else "does not go with data.columns.messages, which holds prompts. Leave it out"
    if prompt is None and text is None:
        return "nothing is asked. Type data.columns.text=COLUMN, or \"task.prompt='Describe the image.'\""
    for name in ("image", "text"):
        if prompt is not None and prompt.count(f"{{{name}}}") > 1:
            return f"{show(prompt)} has {{{name}}} twice, and a row has one {name}. Leave one out"
    unknown = [name for name in _PLACE.findall(prompt or "") if name not in ("image", "text")]
    if unknown:
        return (
            f"{show(prompt)} has {{{unknown[0]}}}, but its places are {{text}} and {{image}}. Columns are put together "
            f"by the text: \"data.columns.text='... {{{unknown[0]}}} ...'\" \"task.prompt='{{text}}'\""
        )
    if prompt is None or ("{text}" in prompt) == (text is not None):
        return None
    if text is None:
        return f"{show(prompt)} needs a text for {{text}}. Type data.columns.text=COLUMN"
    return (
        f"{show(prompt)} has no {{text}}, so data.columns.text={show(text)} would not be read. Type "
        f"\"task.prompt='{{text}} {prompt}'\", or data.columns.text=null"
    )


@rule("task.metrics")
def _metrics_are_known(c: TrainConfig) -> str | None:
    given: list[str] = getattr(c.task, "metrics", ["exact_match"])
    if unknown := [name for name in given if name not in TEXT_METRICS]:
        return (
            f"{unknown[0]}: no such metric.{did_you_mean(unknown[0], TEXT_METRICS)} There are: {listed(TEXT_METRICS)}"
        )
    if given and len(set(given)) == len(given):
        return None
    return f"{show(given)}: name at least one, and none twice. Type task.metrics=[exact_match,token_f1]"


for _section in ("task", "zero_shot"):

    @rule(f"{_section}.templates")
    @use_rule(f"{_section}.templates")
    def _prompts_have_a_place(c: Any, section: str = _section) -> str | None:
        templates = getattr(c, section).templates
        if templates is None or isinstance(templates, str):
            return None
        if templates and all(map(has_place, templates)):
            return None
        return f"{show(templates)}: each needs one {{}} for the label's name, such as 'an image of {{}}'"


# ---------------------------------------------------------------- several tasks at once

_TAKEN = frozenset({"loss", "train", "val", "test"})


@rule("task.tasks")
def _several_tasks_go_together(c: TrainConfig) -> str | None:
    for name, part in c.task.parts.items():
        if part.parts or part.needs_both or part.generates:
            return f"task={part.type} ({name}) cannot be one of several tasks. Leave it out"
        if taken := [word for word in name.split("/") if word in _TAKEN]:
            return (
                f"{name}: a task cannot be called {taken[0]}, because metrics such as val/loss use that name. "
                "Rename the label column"
            )
    if len(c.task.parts) < 2:
        name, part = next(iter(c.task.parts.items()))
        return f"only one task is given. Type task={part.type} data.columns.label={name}"
    return None


@rule("data.columns.label", "task.tasks")
def _label_columns_are_the_tasks(c: TrainConfig) -> str | None:
    given = c.data.columns.label
    if given is None or set(names_of(given)) == set(c.task.parts):
        return None
    right = f"data.columns.label={list_of(c.task.parts)}"
    typed = f'"{right}"' if "'" in right else right
    return f"{show(given)}: task.tasks has the columns {listed(c.task.parts)}. Type {typed}"


@rule("task.loss_weights", "task.tasks")
def _loss_weights_are_of_tasks(c: TrainConfig) -> str | None:
    weights: dict[str, float] = getattr(c.task, "loss_weights", None) or {}
    for name, weight in weights.items():
        if name not in c.task.parts:
            return f"{name} is not a task.{did_you_mean(name, c.task.parts)} Tasks: {listed(c.task.parts)}"
        if weight <= 0:
            return f"{name}: {show(weight)} is not above 0. To disable a task, leave it out of task.tasks"
    return None
