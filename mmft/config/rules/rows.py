"""Rules about `data`: the source of the rows, their columns, and how they are split, batched and augmented."""

from __future__ import annotations

import codecs
import math
import re
from dataclasses import fields
from typing import Any

from mmft.config.rules.base import rule, use_rule
from mmft.config.schema.audit import AuditConfig
from mmft.config.schema.augment import AugmentConfig
from mmft.config.schema.data import FractionsConfig, names_of
from mmft.config.schema.root import CheckConfig, TrainConfig
from mmft.config.validate import MUST, Problem
from mmft.config.wording import did_you_mean, listed, show


@use_rule("run", "model.pair")
def _there_is_a_model(c: Any) -> str | None:
    if c.run is None and c.model.pair is None:
        return f"{MUST}: a run folder. Type run=RUN, or model.pair=FOLDER_OR_NAME for a pretrained pair as it is"
    if c.run is not None and c.model.pair is not None:
        return "does not go with model.pair, which takes its place. Leave one of them out"
    return None


@use_rule("data.columns", "model.pair", "data.path")
def _pair_needs_columns(c: Any) -> str | None:
    columns = c.data.columns
    if c.model.pair is None or (columns.image or columns.text) or getattr(c, "index", None):
        return None
    return f"{MUST}: a pair has no run that names them. Type data.columns.image=COLUMN data.columns.text=COLUMN"


@rule("data.path", "data.train")
def _rows_have_a_source(c: TrainConfig) -> str | None:
    if c.data.path is not None or c.data.train is not None:
        return None
    return f"{MUST}: the table of rows. Type data.path=FILE, or data.train=FILE data.val=FILE data.test=FILE"


@rule("data.test")
@use_rule("data.test")
def _test_tables_have_names(c: Any) -> list[Problem]:
    tables = c.data.test
    if not isinstance(tables, dict):
        return []
    if not tables:
        return [Problem("data.test", "names no table. Type data.test={NAME:FILE,NAME:FILE}, or data.test=FILE for one")]
    tasks = {column.split("/")[0] for column in getattr(c.task, "parts", {})} if isinstance(c, TrainConfig) else set()
    return [Problem(f"data.test.{name}", text) for name in tables if (text := _no_name(name, tasks)) is not None]


def _no_name(name: str, tasks: set[str]) -> str | None:
    """Why a test table cannot have this name; None if it can."""
    if name == "loss" or name in tasks:
        return f"a table cannot be called {name}, because metrics such as test/{name}/... have that name. Rename it"
    if re.fullmatch(r"\w[\w-]{0,39}", name):
        return None
    return f"{show(name)} cannot be a table's name: use 1 to 40 letters, digits, '_' and '-', such as photo"


@rule("data.fractions", "data.columns.split", "data.train")
def _fractions_are_used_and_add_up(c: TrainConfig) -> str | None:
    f = c.data.fractions
    total = f.train + f.val + f.test
    for key, given in (("data.columns.split", c.data.columns.split), ("data.train", c.data.train)):
        if given is not None and f != FractionsConfig():
            return f"changes nothing, because {key} defines the splits. Leave one of them out"
    if math.isclose(total, 1.0, abs_tol=1e-6):
        return None
    return f"train {f.train} + val {f.val} + test {f.test} = {total:g}, which must be 1"


@rule("data.fold", "data.folds")
def _fold_is_one_of_the_folds(c: TrainConfig) -> str | None:
    fold, folds = c.data.fold, c.data.folds
    if folds is None or (fold is not None and fold < folds):
        return None
    if fold is None:
        every = ",".join(map(str, range(folds)))
        return f"{MUST} with data.folds={folds}: the fold to hold out. Type data.fold=0, or -m data.fold={every}"
    return f"{fold} is not one of data.folds={folds}, which are numbered 0 to {folds - 1}"


@rule("data.columns.image", "data.columns.text", "data.columns.messages")
def _there_is_a_modality(c: TrainConfig) -> str | None:
    columns = c.data.columns
    if columns.image is None and columns.text is None and columns.messages is None:
        return f"{MUST}, or data.columns.text. Type data.columns.image=COLUMN data.columns.text=COLUMN"
    return None


@rule("data.columns")
@use_rule("data.columns")
def _columns_differ(c: Any) -> str | None:
    columns = c.data.columns
    roles: dict[str, list[str]] = {}
    for role in ("image", "label", "split", "weight", "text", "messages"):  # `id` and `group` may reuse a column
        for column in names_of(getattr(columns, role)):
            roles.setdefault(column, []).append(f"data.columns.{role}")
    twice = [f"{show(column)} as {' and '.join(keys)}" for column, keys in roles.items() if len(keys) > 1]
    return f"a column has two roles: {listed(twice)}" if twice else None


@rule("data.columns")
@use_rule("data.columns")
def _columns_have_names(c: Any) -> str | None:
    empty = [k for k, v in vars(c.data.columns).items() if v in ("", []) or (isinstance(v, list) and "" in v)]
    if not empty:
        return None
    return f"{listed(f'data.columns.{k}' for k in empty)}: the name is empty. Type a column's name, or null for none"


@rule("data.background")
@use_rule("data.background")
def _background_is_a_colour(c: Any) -> str | None:
    if c.data.background in (None, "white", "black") or re.fullmatch("#[0-9a-fA-F]{6}", c.data.background):
        return None  # avoids the 60 ms that importing Pillow takes
    from PIL import ImageColor

    try:
        if len(ImageColor.getrgb(c.data.background)) == 3:
            return None
    except ValueError:
        pass
    near = did_you_mean(c.data.background, ImageColor.colormap)
    return f"{show(c.data.background)} is not a colour.{near} Type a name (white, black, gray) or \"'#rrggbb'\""


@rule("data.micro_batch_size", "data.batch_size")
def _micro_batch_is_a_part(c: TrainConfig) -> str | None:
    micro, batch = c.data.micro_batch_size, c.data.batch_size
    if micro is None or micro <= batch:
        return None
    return f"{micro} is more than data.batch_size={batch}. Type {batch} or less, or null"


@rule("data.micro_batch_tokens", "task")
def _tokens_are_in_one_sequence(c: TrainConfig) -> str | None:
    if c.data.micro_batch_tokens is None or c.task.generates:
        return None
    return (
        f"does not go with task={c.task.type}, whose images and texts are no one sequence. Type data.micro_batch_size"
    )


@rule("data.sampler", "task")
def _balanced_sampler_has_classes(c: TrainConfig) -> str | None:
    if c.data.sampler != "balanced":
        return None
    if not c.task.has_classes:
        return f"balanced needs a class for every row, but task={c.task.type} has none. Type data.sampler=shuffled"
    if getattr(c.task, "class_weights", "none") == "balanced":
        return "balanced with task.class_weights=balanced would upweight rare classes twice. Choose one"
    return None


@rule("data.subset", "task")
def _subset_has_a_size(c: TrainConfig) -> list[Problem]:
    subset, problems = c.data.subset, []
    given = [name for name in ("method", "by_label") if getattr(subset, name) is not None]
    if given and subset.rows is None and subset.fraction is None:
        text = (
            "changes nothing without the number of rows. Type data.subset.fraction=0.1 or data.subset.rows=200 as well"
        )
        problems = [Problem(f"data.subset.{name}", text) for name in given]
    if subset.by_label and not c.task.has_classes:
        text = f"true needs a class for every row, but task={c.task.type} has none. Leave it out"
        problems.append(Problem("data.subset.by_label", text))
    return problems


@rule("data.subset", "task")
def _subset_needs_no_language_model(c: TrainConfig) -> str | None:
    if not c.task.generates or (c.data.subset.rows is None and c.data.subset.fraction is None):
        return None
    return f"does not go with task={c.task.type} yet, whose answers a language model has to read first. Leave it out"


@rule("audit", "features")
def _features_are_audited(c: CheckConfig) -> list[Problem]:
    default = AuditConfig()
    given = [name for name in AuditConfig.OF_FEATURES if getattr(c.audit, name) != getattr(default, name)]
    text = "changes nothing without features. Type features=true, or leave it out"
    return [] if c.features else [Problem(f"audit.{name}", text) for name in given]


# ---------------------------------------------------------------- augmentation

_OF_IMAGES = tuple(f.name for f in fields(AugmentConfig) if f.name not in AugmentConfig.OF_TEXTS)

for _modality, _names in (("image", _OF_IMAGES), ("text", AugmentConfig.OF_TEXTS)):

    @rule("data.augment", f"data.columns.{_modality}")
    def _augmented_modality_is_there(
        c: TrainConfig, modality: str = _modality, names: tuple[str, ...] = _names
    ) -> str | None:
        asked = _asked(c.data.augment, names)
        if not asked or names_of(getattr(c.data.columns, modality)):
            return None
        verb, them = ("changes", "it") if len(asked) == 1 else ("change", "them")
        return (
            f"{listed(asked)} {verb} nothing, because data.columns.{modality} is null. "
            f"Leave {them} out{', or type data/augment=none' * (modality == 'image')}"
        )


@rule("data.augment", "model.tiles")
def _tiles_are_not_augmented(c: TrainConfig) -> str | None:
    asked = _asked(c.data.augment, _OF_IMAGES)
    if not asked or not c.model.tiles:
        return None
    return (
        f"{listed(asked)} {'does' if len(asked) == 1 else 'do'} not go with model.tiles=true, which leaves images to "
        "the model's processor. Type data/augment=none, or leave model.tiles out"
    )


def _asked(augment: AugmentConfig, names: tuple[str, ...]) -> list[str]:
    """The given keys that are switched on."""
    return [f"data.augment.{name}" for name in names if getattr(augment, name) not in (None, 0, "none")]


@rule("cache.views", "data.augment")
def _views_are_fixed(c: TrainConfig) -> str | None:
    if c.cache.views is None:
        return None
    if not _asked(c.data.augment, _OF_IMAGES):
        return "changes nothing, because no image is augmented. Type data/augment=light, or leave it out"
    if asked := _asked(c.data.augment, ("mixup", "cutmix")):
        return f"does not go with {listed(asked)}: an image is mixed with another in each epoch. Leave one of them out"
    if c.data.augment.extra:
        return "does not go with data.augment.extra: changed code would go unnoticed. Leave one of them out"
    return None


@rule("cache.dtype", "trainer.strategy")
def _sharded_layers_are_not_kept(c: TrainConfig) -> str | None:
    if c.cache.dtype == "computed" or c.trainer.strategy != "fsdp":
        return None
    return "changes nothing with trainer.strategy=fsdp, which keeps nothing. Leave it out"


@rule("data.augment", "task")
def _prompts_are_whole(c: TrainConfig) -> str | None:
    asked = _asked(c.data.augment, AugmentConfig.OF_TEXTS)
    if not asked or not c.task.generates:
        return None
    return f"{listed(asked)}: would change the prompt around the text, too, with task={c.task.type}. Leave it out"


@rule("data.augment", "task")
def _targets_can_be_mixed(c: TrainConfig) -> str | None:
    asked = _asked(c.data.augment, ("mixup", "cutmix"))
    if not asked:
        return None
    if not c.task.mixes_targets:
        return (
            f"{listed(asked)}: mixing targets needs one class per row (task=classification); it does not go with "
            f"task={c.task.type}. Leave {'it' if len(asked) == 1 else 'them'} out"
        )
    if getattr(c.task, "loss", "") == "focal":
        return f"{listed(asked)}: does not go with task.loss=focal, which weights rows by difficulty. Choose one"
    return None


@rule("data.reading.separator")
@use_rule("data.reading.separator")
def _separator_is_a_character(c: Any) -> str | None:
    given = c.data.reading.separator
    if given is None or (len(given) == 1 and given not in "\r\n\"'"):
        return None
    return f"{show(given)}: type one character, such as data.reading.separator=';', or null"


@rule("data.reading.encoding")
@use_rule("data.reading.encoding")
def _encoding_is_known(c: Any) -> str | None:
    given = c.data.reading.encoding
    try:
        known = given is None or codecs.lookup(given)._is_text_encoding
    except (LookupError, ValueError):
        known = False
    return None if known else f"{show(given)} is not an encoding. Type cp1252, latin-1, utf-16, or another of Python's"


@rule("data.reading.thousands", "data.reading.decimal")
@use_rule("data.reading.thousands", "data.reading.decimal")
def _marks_differ(c: Any) -> str | None:
    reading = c.data.reading
    if reading.thousands in (None, "none") or reading.thousands != (reading.decimal or "."):
        return None
    return f"{show(reading.thousands)} is also data.reading.decimal. Type data.reading.decimal=',' or another mark"
