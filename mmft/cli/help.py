"""The help texts `mmft --help` and `mmft COMMAND --help`, generated from the schemas. Imports nothing heavy."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field
from typing import Any, NamedTuple

from mmft.config.docs import doc
from mmft.config.registry import options
from mmft.config.schema.root import COMMANDS, trains
from mmft.config.schema.sweep import GROUPS, MultirunConfig
from mmft.config.sources import Groups
from mmft.config.walk import default_of, has_default, hints, keys
from mmft.config.wording import describe, did_you_mean, show
from mmft.errors import UserError

_WIDTH = 110

_EXAMPLES = r"""
mmft train                                                  (the shipped sample)
mmft train data.path=rows.csv data.columns.image=image data.columns.text=title data.columns.label=label \
      model.image_encoder.name=timm/vit_small_patch14_dinov2 model.text_encoder.name=hf/bert-base-uncased
mmft train tune=probe                                       (a linear head on frozen features, in seconds)
mmft train tune=head_only optim=sgd
mmft train -m optim.lr=1e-4,1e-3 seed=0,1,2    (a sweep)
mmft train -m hydra/sweeper=optuna 'optim.lr=tag(log, interval(1e-5, 1e-3))' optim=adamw,sgd    (a search)
mmft train -m hydra/launcher=joblib hydra.launcher.n_jobs=4 seed=range(0,8)
mmft train resume=last
mmft check                                                  (the shipped sample)
mmft check data.path=rows.csv data.columns.image=image data.columns.text=title data.columns.label=label \
      model.image_encoder.name=timm/vit_small_patch14_dinov2 model.text_encoder.name=hf/bert-base-uncased
mmft check experiment=mine --config-dir=configs out=findings.csv
mmft test run=last
mmft test run=runs/mine/2026-11-01_10-00-00 data.path=rows.csv
mmft test run=last 'data.test={photo:a.csv,sketch:b.csv}'     (several tables, side by side)
mmft test run=last modalities=true                          (with images only, texts only, ...)
mmft predict run=last data.path=new.csv out=predictions.csv
mmft predict run=last data.path=new.csv out=- | head
mmft embed run=last data.path=new.csv out=embeddings.parquet
mmft embed run=last data.path=new.csv out=embeddings.npz
mmft index run=last data.path=rows.csv out=my_index
mmft index model.pair=openai/clip-vit-base-patch32 data.path=rows.csv data.columns.image=image out=my_index
mmft search run=last index=my_index query="a red heart" top=5
mmft search run=last index=my_index query=heart.png find=image out=page.html
mmft search run=last index=my_index queries=wanted.csv out=found.csv
mmft search run=last query="a red heart"                     (in the run's own table)
mmft explain run=last rows=[3,17] out=explained            (from the run's own table)
mmft explain run=last data.path=new.csv ids=[a17] label=cat out=explained
mmft report run=last
mmft report run=runs/mine/2026-11-01_10-00-00               (a run, or a sweep)
mmft serve run=last
mmft serve run=last host=0.0.0.0 port=80 max_batch=64 data.max_pixels=25_000_000
mmft demo run=last
mmft demo run=last marks=marks.jsonl by=anna
mmft review run=last marks='marks-*.jsonl'
mmft review run=last marks=[marks-ann.jsonl,marks-bob.jsonl] out=reviewed.csv
mmft export run=last
mmft export run=runs/mine/2026-11-01_10-00-00 out=my_encoders
mmft runs                                                   (newest first)
mmft runs name=mine status=completed tune=head_only seed=0,1 sort=test/accuracy limit=5
mmft runs compare=runs/mine/2026-11-01_10-00-00,last
mmft runs name=mine compare=all
mmft runs out=runs.csv
mmft cache
mmft cache verify=true
mmft cache clear=all
mmft doctor
mmft doctor paths.runs=/data/runs
"""

_FLAGS = {
    "-m, --multirun": "sweep: start one run for every combination of key=a,b,c",
    "--cfg job": "print the complete config instead of running; with --resolve, interpolations are resolved",
    "--info defaults": "print the files that the config is composed from",
    "--config-dir DIR": "search a folder of your own YAML files (experiment/mine.yaml) before mmft's",
    "--allow-code": "allow code from plugins=[MODULE], the run's own, and folders of encoders",
    "-h, --help": "show this text; with a name (--help optim, --help data.columns) that part alone",
    "--hydra-help": "show Hydra's own help",
}


def overview() -> str:
    """The text of `mmft --help`."""
    lines = [
        "mmft: fine-tune an image encoder and a text encoder together, on rows of images and texts.",
        "",
        "usage: mmft COMMAND [KEY=VALUE ...] [GROUP=OPTION ...] [FLAGS]",
        "",
        *(f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()),
        "",
        "mmft COMMAND --help lists every key, mmft COMMAND --help optim those of a part.",
        "Exit codes: 0 done, 1 a bug in mmft, 2 wrong config or data, 3 training failed, 130 and 143 stopped.",
        "MMFT_DEBUG=1 shows tracebacks. mmft --version prints the version.",
        'For tab completion, add to ~/.bashrc: eval "$(mmft -sc install=bash)"',
    ]
    return "\n".join(lines)


def part_help(command: str, names: Sequence[str]) -> str:
    """The text of `mmft COMMAND --help NAME`: the groups and keys of some sections, or some keys.

    Args:
        command: a sub-command.
        names: sections, groups or keys, such as `optim`, `model/fusion`, `data.columns.image`.

    Raises:
        UserError: the command has none of that name.
    """
    known = [*keys(COMMANDS[command].config), *(keys(MultirunConfig) if command == "train" else ())]
    sections = {key[:end] for key, *_ in known for end in (*_dots(key), len(key))}
    groups = Groups([]).names() if trains(command) else []
    lines: list[str] = []
    for name in names:
        part = name.rstrip("./").replace("/", ".")
        if part not in sections and part.replace(".", "/") not in groups:
            ending = [one for one in sorted(sections) if one.endswith(f".{part}")]
            near = f" Did you mean {' or '.join(ending)}?" if ending else did_you_mean(part, sorted(sections))
            raise UserError(f"{name}: mmft {command} has no such key or group.{near}")
        below = [group for group in groups if f"{group.replace('/', '.')}.".startswith(f"{part}.")]
        lines += _groups(below) if below else ()
        own = [one for one in known if f"{one[0]}.".startswith(f"{part}.")]
        lines += _keys(own, f"keys of {name} (KEY=VALUE):") if own else ()
    return "\n".join(lines)


def _dots(key: str) -> list[int]:
    return [place for place, letter in enumerate(key) if letter == "."]


def command_help(command: str) -> str:
    """The text of `mmft COMMAND --help`: usage, examples, flags, groups, every key."""
    grouped = trains(command)
    flags = {name: text for name, text in _FLAGS.items() if command == "train" or "multirun" not in name}
    return "\n".join(
        [
            f"mmft {command}: {COMMANDS[command].summary}.",
            "",
            f"usage: mmft {command} [KEY=VALUE ...] {'[GROUP=OPTION ...] ' if grouped else ''}[FLAGS]",
            "",
            *(f"  {example}" for example in _examples(command)),
            "",
            *_section("flags", flags),
            *(_groups(Groups([]).names()) if grouped else ()),
            *_keys(keys(COMMANDS[command].config), "keys (KEY=VALUE):"),
            *(("", *_sweep()) if command == "train" else ()),
        ]
    )


def _examples(command: str) -> list[str]:
    return [one for one in re.split(r"\n(?=mmft )", _EXAMPLES.strip()) if one.split()[1] == command]


def _section(title: str, entries: Mapping[str, str]) -> Iterator[str]:
    yield f"{title}:"
    for name, text in entries.items():
        yield textwrap.fill(text, _WIDTH, initial_indent=f"  {name:<22}", subsequent_indent=" " * 24)
    yield ""


def _groups(names: Iterable[str]) -> Iterator[str]:
    groups = Groups([])
    yield from _section("groups (GROUP=OPTION)", {name: ", ".join(groups.options(name)) for name in names})


def _sweep() -> Iterator[str]:
    """Groups and keys that are valid with -m only."""
    yield from _section("with -m, groups", {name: ", ".join(options(name)) for name in GROUPS})
    yield from _keys(keys(MultirunConfig), "with -m, keys:")


class Entry(NamedTuple):
    """A key as help and docs/options.md show it.

    Attributes:
        key: with dots.
        only: the options of its group that have it, such as `optim=sgd`; empty if all have it.
        values: what it may be, in words.
        default: as typed, or `required`.
        doc: what it means.
    """

    key: str
    only: str
    values: str
    default: str
    doc: str


Keys = Iterable[tuple[str, type, Field[Any], str | None]]
"""As `mmft.config.walk.keys` yields them."""


def entries(every: Keys) -> list[Entry]:
    """The keys, each once for each meaning that it has in the options of its group."""
    shown: dict[Entry, list[str | None]] = {}
    for key, owner, f, option in every:
        values = describe(hints(owner)[f.name], f.metadata)
        shown.setdefault(Entry(key, "", values, _default(f), doc(owner, f.name)), []).append(option)
    return [entry._replace(only=_only(entry.key, names)) for entry, names in shown.items()]


def _only(key: str, names: list[str | None]) -> str:
    group = key.rpartition(".")[0].replace(".", "/")
    every = None in names or len(names) == len(options(group) or names)
    return "" if every else f"{group}={' '.join(map(str, names))}"


def _keys(every: Keys, title: str) -> Iterator[str]:
    yield title
    for key, only, values, default, meaning in entries(every):
        named = f"{key} ({only} only)" if only else key
        yield textwrap.fill(named, _WIDTH, initial_indent="  ", subsequent_indent=" " * 4)
        said = default if default == "required" else f"default {default}"
        text = f"{values}; {said}. {meaning}"
        yield textwrap.fill(text, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _default(f: Field[Any]) -> str:
    """A field's default as typed."""
    if not has_default(f):
        return "required"
    default = default_of(f)
    return default if isinstance(default, str) else show(default)
