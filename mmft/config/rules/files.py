"""Rules about names, files and folders: inputs must exist, and outputs must be writable."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from mmft.config.paths import IMAGES, TABLES, table_files, tables_of
from mmft.config.rules.base import rule, use_rule
from mmft.config.schema.report import ReviewConfig
from mmft.config.schema.root import CheckConfig, EmbedConfig, ExplainConfig, RunsConfig, TestConfig, TrainConfig
from mmft.config.schema.search import IndexConfig, SearchConfig
from mmft.config.schema.use import UseConfig
from mmft.config.validate import Problem
from mmft.config.wording import did_you_mean, listed, show
from mmft.files import PREFIX, located

_PREDICTIONS = (".csv", ".jsonl", ".parquet")
_EMBEDDINGS = (".parquet", ".npz")
_LISTS = (".csv", ".jsonl")
_LOCAL = ("/", "./", "../", "~", PREFIX)  # a name that starts like this can only be a folder


@rule("name")
def _name_is_a_folder_name(c: TrainConfig) -> str | None:
    if c.name is None or (re.fullmatch(r"[^=,:\s/\\\x00-\x1f]{1,200}", c.name) and c.name[0] not in ".-~"):
        return None
    better = re.sub(r"[^0-9A-Za-z_.-]+", "_", c.name).strip("._-") or "NAME"
    return (
        f"{show(c.name)} cannot be a folder's name: use 1 to 200 characters without '=', ',', ':', spaces or slashes, "
        f"not starting with '.', '-' or '~'. Type name={better}"
    )


for _key in ("resume", "init", "run"):

    @rule(_key)
    @use_rule(_key)
    def _is_a_run(c: Any, key: str = _key) -> str | None:
        run = getattr(c, key)
        if run is None or run == "last" or located(run).is_dir():
            return None
        return f"there is no folder {show(run)}{_here(run)}. Type a run folder, or last"


def _here(path: str) -> str:
    return "" if located(path).is_absolute() else f" in {Path.cwd()}"


@rule("paths.runs")
def _runs_is_a_folder(c: TrainConfig) -> str | None:
    return _not_a_folder("runs", c.paths.runs)


@rule("paths.cache")
def _cache_is_a_folder(c: TrainConfig) -> str | None:
    return None if c.paths.cache is None else _not_a_folder("cache", c.paths.cache)


def _not_a_folder(name: str, path: str) -> str | None:
    if path and not located(path).is_file():
        return None
    return f"{show(path)} is not a folder. Type paths.{name}=FOLDER; it is created if it does not exist"


@rule("model.pair")
def _pair_is_there(c: TrainConfig) -> str | None:
    return (
        None if c.model.pair is None else _not_a_model(c.model.pair, "a pair", ("config.json", "open_clip_config.json"))
    )


@rule("model.whole")
def _whole_model_is_there(c: TrainConfig) -> str | None:
    return None if c.model.whole is None else _not_a_model(c.model.whole, "a vision-language model", ("config.json",))


for _encoder in ("image_encoder", "text_encoder"):

    @rule(f"model.{_encoder}.name", "model.pair", "model.whole")
    def _encoder_is_there(c: TrainConfig, encoder: str = _encoder) -> str | None:
        if c.model.pair is not None or c.model.whole is not None:  # its name is that model's
            return None
        name = getattr(c.model, encoder).name
        if (located(name) / "open_clip_config.json").is_file() and not (located(name) / "config.json").is_file():
            return f"{show(name)} is a pair in open_clip's format. Type model.pair={name} to use both of its encoders"
        return _not_a_model(name, "an encoder", ("config.json",))


def _not_a_model(name: str, what: str, configs: tuple[str, ...]) -> str | None:
    """Why a name cannot be that of a pretrained model; None if it can."""
    if not name.strip():
        return "is empty. Type a folder or a hub name"
    if os.environ.get("MMFT_ENCODERS"):  # the folder may have been moved there
        return None
    folder = located(name)
    if name.startswith(_LOCAL) and not folder.is_dir():
        return f"there is no folder {show(name)}"
    if folder.is_dir() and not any((folder / config).is_file() for config in configs):
        return f"{show(name)} is not {what}: it has no {' or '.join(configs)}"
    return None


for _key in ("path", "train", "val", "test"):

    @rule(f"data.{_key}")
    @use_rule(f"data.{_key}")
    def _are_tables(c: Any, key: str = f"data.{_key}") -> list[Problem]:
        own = {name: files for name, files in tables_of(c.data).items() if name == key or name.startswith(f"{key}.")}
        return [Problem(name, text) for name, files in own.items() if (text := _no_tables(files, name)) is not None]


def _no_tables(given: str | list[str], key: str) -> str | None:
    """What is wrong with the files that `key` names; None if nothing is."""
    try:
        if not given:
            return "is empty. Type a file, a folder or a pattern"
        problem = next((problem for file in table_files(given) if (problem := _not_a_table(file))), None)
    except OSError as error:  # of a path, such as one that is too long
        return f"cannot be used: {error.strerror}"
    if problem and key == "data.test" and isinstance(given, str) and re.match(r"\w[\w-]*:", given):
        return f"{problem} The shell takes braces apart; type them in quotes: 'data.test={{NAME:FILE,NAME:FILE}}'"
    return problem


def _not_a_table(path: Path) -> str | None:
    """Why a file cannot be a table; None if it can."""
    shown = show(str(path))
    if path.is_dir():
        return f"{shown} is a folder without tables ({listed(TABLES)})"
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        return f"there is no file {shown}{_here(str(path))}.{did_you_mean(path.name, near)}"
    if path.suffix.lower() not in TABLES:
        return f"{shown}: unknown file extension; expected one of {listed(TABLES)}"
    return None


def _tables(c: Any) -> list[str]:
    """The real paths of the table files that a config reads."""
    return [os.path.realpath(file) for files in tables_of(c.data).values() for file in table_files(files)]


@rule("data.train", "data.val", "data.test", "data.path")
def _different_files(c: TrainConfig) -> str | None:
    if c.data.path is not None:
        return None
    tests = c.data.test if isinstance(c.data.test, dict) else {"": c.data.test}  # these may share files
    for test in tests.values():
        files = _tables(replace(c, data=replace(c.data, test=test)))
        if len(set(files)) < len(files):
            return "data.train, data.val and data.test must be different files, so that no row is in two splits"
    return None


@use_rule("data.test", "data.path")
def _tested_rows_have_one_source(c: TestConfig) -> str | None:
    if c.data.test is None or c.data.path is None:
        return None
    return "does not go with data.path: both name the rows to test on. Leave one of them out"


@rule("data.root")
@use_rule("data.root")
def _root_is_a_folder(c: Any) -> str | None:
    if c.data.root is None or located(c.data.root).is_dir():
        return None
    return f"there is no folder {show(c.data.root)}{_here(c.data.root)}. Type null for the table's own folder"


@use_rule("out", "data.path")
def _out_can_be_written(c: Any) -> str | None:
    if isinstance(c, ExplainConfig | IndexConfig):
        return f"{show(c.out)} is a file; type out=FOLDER" if located(c.out).is_file() else None
    if isinstance(c, SearchConfig):
        return _not_to_be_written(c, c.out, (*_PREDICTIONS, ".html"))
    return _not_to_be_written(c, c.out, _EMBEDDINGS if isinstance(c, EmbedConfig) else _PREDICTIONS)


@use_rule("query", "queries")
def _something_is_searched(c: SearchConfig) -> str | None:
    if c.queries is None and (c.query is None or not c.query.strip()):
        return f'{"is missing" if c.query is None else "is empty"}. Type query="a red heart", or query=IMAGE.png'
    if c.query is not None and c.query.lower().endswith(IMAGES) and not located(c.query).is_file():
        return f"there is no image file {show(c.query)}{_here(c.query)}. Type the path of an image, or a text"
    return None


@use_rule("queries")
def _queries_are_a_table(c: SearchConfig) -> str | None:
    return None if c.queries is None else _not_a_table(located(c.queries))


@use_rule("index")
def _index_is_there(c: SearchConfig) -> str | None:
    if c.index is None or located(c.index).is_dir():
        return None
    return f"there is no folder {show(c.index)}{_here(c.index)}. Make one with mmft index run=RUN out={c.index}"


@use_rule("out", "compare")
def _list_of_runs_can_be_written(c: RunsConfig) -> str | None:
    if c.out is not None and c.out.lower().endswith(".html") and c.compare is None:
        return "a page shows runs side by side. Type compare=RUN,RUN, or compare=all for those that the filters leave"
    endings = _LISTS if c.compare is None else (*_LISTS, ".html")
    return None if c.out is None else _not_to_be_written(c, c.out, endings)


@rule("out")
def _review_can_be_written(c: ReviewConfig) -> str | None:
    return None if c.out is None else _not_to_be_written(c, c.out, _LISTS)


@rule("out", "audit", "data")
def _findings_can_be_written(c: CheckConfig) -> str | None:
    if c.out == "-":
        return "findings are printed anyway. Type out=FILE, or audit.shown=null to print all of them"
    return None if c.out is None else _not_to_be_written(c, c.out, _LISTS)


@rule("page", "features", "audit", "data")
def _page_can_be_written(c: CheckConfig) -> str | None:
    if c.page is not None and not c.features:
        return "shows what is found by features. Type features=true, or leave it out"
    return None if c.page is None else _not_to_be_written(c, c.page, (".html",), "page")


@rule("resume", "audit")
def _check_comes_first(c: CheckConfig) -> str | None:
    return None if c.resume is None else "mmft check does not support resuming. Leave it out"


def _not_to_be_written(c: Any, typed: str, endings: tuple[str, ...], key: str = "out") -> str | None:
    """Why the file that `key` names cannot be written; None if it can."""
    out = located(typed)
    if typed == "-" and ".csv" in endings:
        return None
    if out.suffix.lower() not in endings:
        also = ", or - for CSV on stdout" if ".csv" in endings else ""
        one = "one of " if len(endings) > 1 else ""
        return f"{show(typed)}: unknown file extension; expected {one}{listed(endings)}{also}"
    if hasattr(c, "data") and os.path.realpath(out) in _tables(c):
        return f"{show(typed)} is the table of rows: the output would overwrite the rows"
    if not out.absolute().parent.is_dir():
        return f"there is no folder {out.parent}{_here(typed)}; create it first"
    return f"{show(typed)} is a folder; type {key}=FILE" if out.is_dir() else None


@use_rule("rows", "ids", "points")
def _rows_are_chosen(c: ExplainConfig) -> str | None:
    if (c.rows is None) == (c.ids is None):
        return "give either rows or ids, to choose the rows to explain. Type rows=[0,1] or ids=[ID,ID]"
    if c.rows is not None and min(c.rows, default=-1) < 0:
        return f"{show(c.rows)}: expected one or more row numbers, from 0. Type rows=[0,1]"
    return "is empty. Type ids=[ID,ID]" if c.ids == [] else None


# Keys that `mmft predict`, `mmft embed` and `mmft explain` do not read, and why.
UNREAD = {
    "limit": "the whole table is used",
    "max_bad_fraction": "each bad row is reported, however many there are",
    **dict.fromkeys(("columns.label", "columns.split", "columns.weight", "columns.group"), "it is not read"),
    "reading.split_names": "no column of splits is read",
}

for _key, _why in UNREAD.items():

    @use_rule(f"data.{_key}")
    def _is_read(c: UseConfig, key: str = _key, why: str = _why) -> str | None:
        if isinstance(c, TestConfig) or attrgetter(key)(c.data) is None:
            return None
        return f"changes nothing: {why}. Leave it out"


@use_rule("zero_shot.labels")
def _zero_shot_labels_can_be_chosen(c: Any) -> str | None:
    labels, tests = c.zero_shot.labels, isinstance(c, TestConfig)
    if labels is None or labels == "run" or (labels == "rows" and tests):
        return None
    if isinstance(labels, str):
        return f"{show(labels)}: type a list [NAME,NAME], or run{' or rows' if tests else ''}"
    if len(labels) < 2 or len(set(labels)) < len(labels):
        return f"{show(labels)}: at least two different labels are needed. Type zero_shot.labels=[NAME,NAME]"
    return None
