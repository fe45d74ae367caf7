"""Checks of names, files and `data`: what is there, and what a column may be."""

from __future__ import annotations

import os
import re
from operator import attrgetter
from pathlib import Path
from typing import Any

from mmft.config.checks import check_train, check_use
from mmft.config.schema import (
    CheckConfig,
    EmbedConfig,
    ExplainConfig,
    PredictConfig,
    RunsConfig,
    TrainConfig,
    UseConfig,
)
from mmft.config.schema.data import names_of
from mmft.config.validate import MUST
from mmft.config.wording import did_you_mean, listed, show
from mmft.shipped import located

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_PREDICTIONS = (".csv", ".jsonl", ".parquet")
_EMBEDDINGS = (".parquet", ".npz")
_LISTS = (".csv", ".jsonl")


@check_train("name", always=True)
def name_is_a_folder_name(c: TrainConfig) -> str | None:
    """The name is a folder's."""
    if c.name is None or (re.fullmatch(r"[^=,:\s/\\\x00-\x1f]{1,200}", c.name) and c.name[0] not in ".-~"):
        return None
    better = re.sub(r"[^0-9A-Za-z_.-]+", "_", c.name).strip("._-") or "NAME"
    return (
        f"{show(c.name)} cannot be a folder's name: 1 to 200 characters without '=', ',', ':', blanks and slashes, "
        f"not beginning with '.', '-' or '~'. Type name={better}"
    )


@check_train("resume", "init", always=True)
def resume_or_init(c: TrainConfig) -> str | None:
    """A run is gone on with, or another one's weights are started from."""
    if c.resume is None or c.init is None:
        return None
    return "does not go with init. To go on with a run, type resume=RUN alone; to start from its weights, init=RUN"


@check_train("resume")
def resume_is_a_run(c: TrainConfig) -> str | None:
    """`resume` names a run."""
    return _no_run(c.resume)


@check_train("init")
def init_is_a_run(c: TrainConfig) -> str | None:
    """`init` names a run."""
    return _no_run(c.init)


@check_use("run")
def run_is_a_run(c: UseConfig) -> str | None:
    """`run` names a run."""
    return _no_run(c.run)


def _no_run(run: str | None) -> str | None:
    if run is None or run == "last" or located(run).is_dir():
        return None
    return f"there is no folder {show(run)}{_here(run)}. Type a run folder, or last"


def _here(path: str) -> str:
    return "" if located(path).is_absolute() else f" in {Path.cwd()}"


@check_train("paths.runs")
def runs_is_a_folder(c: TrainConfig) -> str | None:
    """Run folders can be made."""
    if c.paths.runs and not located(c.paths.runs).is_file():
        return None
    return f"{show(c.paths.runs)} is not a folder. Type paths.runs=FOLDER; it is made where it does not exist"


@check_train("data.columns.image", "data.columns.text")
def some_modality(c: TrainConfig) -> str | None:
    """There is something to learn from."""
    if c.data.columns.image is None and c.data.columns.text is None:
        return f"{MUST}, or data.columns.text. Type data.columns.image=COLUMN data.columns.text=COLUMN"
    return None


@check_train("data.columns.label", "task")
def label_is_given(c: TrainConfig) -> str | None:
    """There is something to learn."""
    if c.data.columns.label is None and not c.task.of_pairs:
        tasks = getattr(c.task, "tasks", None)
        return f"{MUST} to train. Type data.columns.label={'COLUMN' if tasks is None else '[' + ','.join(tasks) + ']'}"
    return None


@check_train("data.columns")
@check_use("data.columns")
def columns_differ(c: Any) -> str | None:
    """No column is two things; `id` and `group` may share one (all rows of a picture are a group)."""
    columns = c.data.columns
    roles: dict[str, list[str]] = {}
    for role in ("image", "label", "split", "weight", "text"):
        for column in names_of(getattr(columns, role)):
            roles.setdefault(column, []).append(f"data.columns.{role}")
    twice = [f"{show(column)} as {' and '.join(keys)}" for column, keys in roles.items() if len(keys) > 1]
    return f"a column is named twice: {listed(twice)}" if twice else None


@check_train("data.columns")
@check_use("data.columns")
def columns_have_names(c: Any) -> str | None:
    """A column's name is not empty, nor is the list of texts."""
    empty = [k for k, v in vars(c.data.columns).items() if v in ("", []) or (isinstance(v, list) and "" in v)]
    if not empty:
        return None
    return f"{listed(f'data.columns.{k}' for k in empty)}: an empty name. Type COLUMN, or null for none"


@check_train("data.background")
@check_use("data.background")
def background_is_a_colour(c: Any) -> str | None:
    """Pillow knows the colour, and it is opaque."""
    if c.data.background in (None, "white", "black") or re.fullmatch("#[0-9a-fA-F]{6}", c.data.background):
        return None  # without the 60 ms that Pillow takes to import
    from PIL import ImageColor

    try:
        if len(ImageColor.getrgb(c.data.background)) == 3:
            return None
    except ValueError:
        pass
    near = did_you_mean(c.data.background, ImageColor.colormap)
    return f"{show(c.data.background)} is no colour.{near} Type a name (white, black, gray) or \"'#rrggbb'\""


@check_train("data.micro_batch_size", "data.batch_size")
def micro_batch_fits(c: TrainConfig) -> str | None:
    """A micro-batch is a part of the batch."""
    micro, batch = c.data.micro_batch_size, c.data.batch_size
    if micro is None or micro <= batch:
        return None
    return f"{micro} is more than data.batch_size={batch}, of which it is a part; type {batch} or less, or null"


@check_use("out", "data.path")
def out_is_a_table(c: Any) -> str | None:
    """What comes out can be written, and not over the rows."""
    if isinstance(c, ExplainConfig):
        return f"{show(c.out)} is a file; type out=FOLDER" if located(c.out).is_file() else None
    rows = c.data.path
    if c.out != "-" and rows is not None and os.path.realpath(located(c.out)) == os.path.realpath(located(rows)):
        return f"{show(c.out)} is data.path: what comes out would overwrite the rows"
    return _not_to_be_written(c.out, _EMBEDDINGS if isinstance(c, EmbedConfig) else _PREDICTIONS)


@check_use("rows", "ids", "points")
def rows_are_chosen(c: ExplainConfig) -> str | None:
    """Rows are named, in one way."""
    if (c.rows is None) == (c.ids is None):
        return "either rows or ids must be given: which rows to explain. Type rows=[0,1] or ids=[ID,ID]"
    if c.rows is not None and min(c.rows, default=-1) < 0:
        return f"{show(c.rows)}: one or more numbers of rows, from 0. Type rows=[0,1]"
    return "is empty. Type ids=[ID,ID]" if c.ids == [] else None


@check_use("out", "compare")
def out_is_a_list(c: RunsConfig) -> str | None:
    """The list of runs can be written."""
    return None if c.out is None else _not_to_be_written(c.out, _LISTS)


@check_train("out", "audit", "data")
def findings_can_be_written(c: CheckConfig) -> str | None:
    """The findings can be written, and not over the rows."""
    if c.out is None:
        return None
    rows = {os.path.realpath(located(f)) for f in (c.data.path, c.data.train, c.data.val, c.data.test) if f}
    if os.path.realpath(located(c.out)) in rows:
        return f"{show(c.out)} is the table of rows, which the findings would overwrite"
    if c.out == "-":
        return "findings are printed anyway; type out=FILE, or audit.shown=null to see all of them"
    return _not_to_be_written(c.out, _LISTS)


@check_train("resume", "audit")
def check_comes_first(c: CheckConfig) -> str | None:
    """A run that is gone on with was checked by starting it."""
    return None if c.resume is None else "mmft check looks at what would be trained anew. Leave it out"


def _not_to_be_written(typed: str, endings: tuple[str, ...]) -> str | None:
    """Why a file for `out` cannot be written."""
    out = located(typed)
    if typed == "-" and ".csv" in endings:
        return None
    if out.suffix.lower() not in endings:
        also = ", or - for CSV on stdout" if ".csv" in endings else ""
        return f"{show(typed)}: its ending says the format: {listed(endings)}{also}"
    if not out.absolute().parent.is_dir():
        return f"there is no folder {out.parent}{_here(typed)}; make it first"
    return f"{show(typed)} is a folder; type out=FILE" if out.is_dir() else None


def _table(key: str) -> Any:
    """A check that a data file is there, for one key."""

    def rule(c: Any) -> str | None:
        value = getattr(c.data, key)
        if value is None:
            return None
        path = located(value)
        if path.is_dir():
            return f"{show(value)} is a folder; type data.{key}=FILE"
        if not path.is_file():
            near = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
            return f"there is no file {show(value)}{_here(value)}.{did_you_mean(path.name, near)}"
        if path.suffix.lower() not in _TABLES:
            return f"{show(value)}: its ending says the format: {listed(_TABLES)}"
        return None

    return rule


for _key in ("path", "train", "val", "test"):
    check_train(f"data.{_key}")(_table(_key))
check_use("data.path")(_table("path"))

# What `mmft predict`, `mmft embed` and `mmft explain` do not look at, and why.
_UNREAD = {
    "limit": "takes its rows from the whole table",
    "max_bad_fraction": "gives bad rows an error and nothing else, however many they are",
    **dict.fromkeys(
        ("columns.label", "columns.split", "columns.weight", "columns.group"),
        "looks at pictures, texts and ids alone",
    ),
}


def _unread(key: str, why: str) -> Any:
    """A check that a key is not given to a command that only looks at inputs."""

    def rule(c: UseConfig) -> str | None:
        if not isinstance(c, PredictConfig | EmbedConfig | ExplainConfig) or attrgetter(key)(c.data) is None:
            return None
        command = {EmbedConfig: "embed", ExplainConfig: "explain"}.get(type(c), "predict")
        return f"changes nothing, because mmft {command} {why}. Leave it out"

    return rule


for _key, _why in _UNREAD.items():
    check_use(f"data.{_key}")(_unread(_key, _why))


@check_train("data.root")
@check_use("data.root")
def root_is_a_folder(c: Any) -> str | None:
    """Pictures have a folder."""
    if c.data.root is None or located(c.data.root).is_dir():
        return None
    return f"there is no folder {show(c.data.root)}{_here(c.data.root)}; null is the table's own folder"
