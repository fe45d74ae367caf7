"""Random overrides and damaged YAML files: each composes to a valid config or is refused with a sentence."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import yaml

from fuzz.damage import changed, cut, flipped, other, random_bytes, zeroed
from fuzz.outcome import Case, generator
from mmft.config.compose import compose, recompose
from mmft.config.validate import to_dict

SECONDS = 60.0
_COMPLETE = (
    "data.path=rows.csv",
    "data.columns.text=title",
    "data.columns.label=label",
    "model.image_encoder.name=a/b",
    "model.text_encoder.name=c/d",
)
_GROUPS = (
    *("tune", "optim", "schedule", "task", "model/fusion", "logger", "trainer", "experiment", "data/augment", "debug"),
    *("tune/image_encoder", "tune/text_encoder", "callbacks", "paths", "checkpoint", "data", "model", "hydra/launcher"),
)
_OPTIONS = (
    *(
        "lora",
        "full",
        "adamw",
        "sgd",
        "cosine",
        "contrastive",
        "matching",
        "several",
        "cross",
        "concat",
        "wandb",
        "ddp",
    ),
    *("auto", "clipart", "light", "strong", "fast", "none", "null", "default", "table", "joblib", "head_only", "nope"),
)
_VALUES = (
    *("0", "1", "-1", "0.5", "1e-3", "1e400", "nan", "inf", "true", "off", "null", "''", "abc", "2026-01-01", "1_000"),
    *(
        "[]",
        "[1,2]",
        "[1,[2]]",
        "{}",
        "{a:1}",
        "{a:{b:null}}",
        "[",
        "{",
        "}",
        "'",
        '"',
        "\\",
        "a,b",
        "a=b",
        "a:b",
        "#x",
    ),
    *("${seed}", "${nope}", "${.}", "${oc.env:HOME}", "${oc.env:NOPE}", "${oc.decode:1}", "${seed", "$", "${${seed}}"),
    *(
        "range(1,3)",
        "choice(1,2)",
        "interval(0,1)",
        "glob(*)",
        "sort(1,2)",
        "tag(log)",
        "int(3)",
        "float(x)",
        "str([1])",
    ),
    *(
        "/etc/passwd",
        "~",
        "..",
        "../../x",
        "é",
        "猫 🐈",
        "\x00",
        "\udce9",
        "x" * 300,
        "?",
        "???",
        "!!python/object:os.system",
    ),
    *("99999999999999999999", "-0", "0x10", "1e", "._", "*", "@", "%", "a b", "last", "auto", "best", "cuda", "lora"),
)


def cases(count: int, first: int, seed: int, folder: Path) -> Iterator[Case]:
    """`count` wrong or odd configs from number `first` on."""
    (folder / "rows.csv").write_text("title,label\na,b\n")
    with contextlib.chdir(folder):  # of rows.csv
        for number in range(first, first + count):
            random = generator(seed, "configs", number)
            kind = random.choice((_overrides, _overrides, _yaml_file, _saved))
            yield kind(number, random, folder)


@cache
def _values() -> dict[str, Any]:
    """A complete config as plain values."""
    values: dict[str, Any] = to_dict(compose("train", _COMPLETE).config)
    return values


@cache
def _defaults() -> dict[str, Any]:
    """Every key of a complete config, dotted, and its value."""
    return dict(_flat(_values(), ""))


@cache
def _keys() -> tuple[str, ...]:
    return tuple(sorted(_defaults()))


def _flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        yield prefix + name, value
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")


# ---------------------------------------------------------------- the command line


def _overrides(number: int, random: Random, _: Path) -> Case:
    """A command with one to four random overrides, mostly behind those that make it complete."""
    command = random.choice((*("train",) * 8, "check", "predict", "test", "embed", "explain", "export"))
    typed = [_override(random) for _ in range(random.randint(1, 4))]
    if random.random() < 0.8:
        typed = [*_COMPLETE, *typed]
    multirun = command == "train" and random.random() < 0.2
    return Case(number, f"{command} {' '.join(typed)!a:.300}", partial(_compose, command, typed, multirun))


def _override(random: Random) -> str:
    key = random.choice((random.choice(_keys()), random.choice(_keys()), random.choice(_GROUPS)))
    if random.random() < 0.6 and isinstance(_defaults().get(key), str | int | float):
        return f"{key}={_defaults()[key]}"
    value = random.choice(_OPTIONS if key in _GROUPS and random.random() < 0.8 else _VALUES)
    if random.random() < 0.1:
        value = "".join(random.choice("abc019.,:=[]{}()'\"\\${}~!@#*+-_ \t") for _ in range(random.randint(1, 12)))
    if random.random() < 0.1:
        key = _misspelt(key, random)
    form = random.choice(("{}={}",) * 30 + ("+{}={}", "++{}={}", "~{}", "~{}={}", "{}", "{}==", "={1}", "{}@a={}"))
    return form.format(key, value)


def _misspelt(key: str, random: Random) -> str:
    at = random.randrange(len(key) + 1)
    return random.choice(
        (key[:at] + key[at + 1 :], key[:at] + random.choice("xX_.-/ é\0") + key[at:], key.upper(), key * 2)
    )


def _compose(command: str, typed: list[str], multirun: bool) -> str:
    compose(command, typed, multirun=multirun)
    return "composed"


# ---------------------------------------------------------------- YAML files


def _yaml_file(number: int, random: Random, folder: Path) -> Case:
    """An experiment of the user's own, whose file is damaged or holds random values."""
    values = {random.choice(_keys()): _value(random) for _ in range(random.randint(1, 5))}
    text = "# @package _global_\n" + yaml.safe_dump(_nested(values, {}), allow_unicode=True)
    data, how = text.encode(errors="surrogatepass"), "random values"
    if random.random() < 0.5:
        data, how = other(data, random, (changed, flipped, cut, zeroed, random_bytes))
    return Case(number, f"experiment file, {how}: {data[:200]!r}", partial(_compose_file, folder / str(number), data))


def _value(random: Random) -> Any:
    text = random.choice(_VALUES)
    return random.choice((text, text, [text], {"a": text}, 3, -1.5, None, True, [], {}))


def _nested(values: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """`made` with values under dotted keys; a key below one that has a value replaces it."""
    for key, value in values.items():
        *parents, last = key.split(".")
        place = made
        for part in parents:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[last] = value
    return made


def _compose_file(folder: Path, data: bytes) -> str:
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment" / "mine.yaml").write_bytes(data)
    try:
        compose("train", ["experiment=mine", *_COMPLETE], [folder])
    finally:
        shutil.rmtree(folder)
    return "composed"


def _saved(number: int, random: Random, _: Path) -> Case:
    """A run's own config with random values, as it is read again on resuming."""
    values = {random.choice(_keys()): _value(random) for _ in range(random.randint(1, 3))}
    return Case(number, f"saved config with {values!a:.300}", partial(_recompose, values))


def _recompose(values: dict[str, Any]) -> str:
    recompose("train", _nested(values, copy.deepcopy(_values())))
    return "composed"
