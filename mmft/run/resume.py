"""`resume=RUN` and `resume=last`: selects the run to resume and its config. Imports nothing heavy.

A resumed run keeps its own config. Anything typed beside `resume` must agree with it key by key; only what does not
change the experiment may differ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from mmft.config.compose import Composed, compose, names_rows, recompose
from mmft.config.nested import flat, get, put
from mmft.config.schema.root import TrainConfig
from mmft.config.walk import key_names
from mmft.config.wording import show
from mmft.errors import UserError
from mmft.files import located
from mmft.run.naming import run_name
from mmft.run_folder import RunFolder, all_runs, find_run, newest, newest_unfinished

# What may differ: where and how fast the run goes, and its loggers.
_MAY_CHANGE = (
    "resume",
    "paths.runs",
    "paths.cache",
    "data.num_workers",
    "data.picture_memory",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.gradient_checkpointing",
    "trainer.log_every_steps",
    "trainer.rank_timeout",
    "cache.keep",
    "cache.limit",
    "callbacks.progress",
    "callbacks.profile",
    "logger",
)

# What is null until `model.pair` decides; config.yaml has the resolved value.
_LEFT_TO_A_PAIR = ("data.resize", "data.resample", "data.crop_pct", "data.background", "data.jpeg_draft", "task.loss")

# What may become more: the run then trains on, also if it was completed.
_MAY_GROW = ("trainer.max_epochs", "trainer.max_steps")


def resolve(composed: Composed) -> tuple[Composed, Path] | None:
    """The config and folder of the run to resume; None if there is none and a new run starts.

    Raises:
        UserError: there is no such run, or something typed disagrees with its config.
    """
    folder = _find(composed)
    if folder is None:
        return None
    if not folder.is_finished:
        with folder.owned():
            pass  # another process may hold the lock; `train` acquires it properly
    saved = folder.read_config()
    base = Path(saved.pop("working_directory", Path.cwd()))
    _refuse_changes(composed, saved, folder)
    if folder.is_finished and not longer(composed.typed, saved):
        return composed, folder.path  # `train` reports it
    for key in (*_MAY_CHANGE, *_MAY_GROW):
        if key in _typed_keys(composed) - {"resume", "paths.runs"}:  # keys of this start, not of the run
            put(saved, key, get(composed.resolved_for_disk(), key))
    path = folder.path.absolute()  # before the working directory changes
    with _in(base, folder):
        return recompose("train", saved, composed.typed, composed.choices), path


def _find(composed: Composed) -> RunFolder | None:
    wanted, runs = composed.config.resume, located(composed.config.paths.runs)
    if wanted != "last":
        return find_run(wanted, runs, "resume")
    name = run_name(composed)
    own = list(all_runs(runs / name))
    found = newest_unfinished(runs / name) or newest(run for run in own if run.is_completed)
    if found is None:
        others = ", ".join(sorted(folder.name for folder in runs.iterdir() if folder.is_dir())) if runs.is_dir() else ""
        there_are = f" (found: {others}; name=... selects one)" if others else ""
        print(f"resume=last: no run named {name} under {runs}{there_are}; starting a new one.", file=sys.stderr)
    return found


@contextmanager
def _in(base: Path, folder: RunFolder) -> Iterator[None]:
    """Resolves relative paths of the run's config against the folder where it was started."""
    try:
        with chdir(base):
            yield
    except FileNotFoundError:
        raise UserError(
            f"resume: {folder.path} was started in {base}, which is gone; its paths are relative to it."
        ) from None


def _refuse_changes(composed: Composed, saved: dict[str, Any], folder: RunFolder) -> None:
    """Rejects keys, typed or set by a chosen option, that differ from the run's config."""
    asked = flat(composed.resolved_for_disk())
    bare = ["data=table"] if any(names_rows(typed) for typed in composed.typed) else []
    default = flat(compose("train", bare, partial=True).resolved_for_disk())
    before = flat(saved)
    typed = _typed_keys(composed)
    changed = [
        key
        for key, value in asked.items()
        if (value != default.get(key) or key in typed)
        and value != before.get(key)
        and value != "auto"  # config.yaml has the resolved value
        and not (value is None and key in _LEFT_TO_A_PAIR and key not in typed)
        and not _may_change(key)
        and not (key in _MAY_GROW and _is_more(value, before.get(key)))
    ]
    mappings = typed.intersection(key_names(TrainConfig))
    changed += [key for key in before if key not in asked and any(key.startswith(f"{one}.") for one in mappings)]
    if changed:
        raise UserError(
            f"{key}: {folder.path} was started with {show(before.get(key))}, and {show(asked.get(key))} would be "
            "another experiment. Leave it out, or start a new run without resume (init=RUN starts from its weights)."
            for key in changed
        )


def longer(typed: Sequence[str], saved: dict[str, Any]) -> bool:
    """Whether overrides ask for more epochs or steps than a run's config."""
    values = {key: value for key, _, value in (text.lstrip("+").partition("=") for text in typed)}
    return any(key in values and values[key] != _shown(get(saved, key)) for key in _MAY_GROW)


def _shown(value: int | None) -> str:
    return "null" if value is None else str(value)


def _is_more(new: int | None, old: int | None) -> bool:
    """Whether a limit is higher; None is no limit."""
    return old is not None and (new is None or new > old)


def _may_change(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in _MAY_CHANGE)


def _typed_keys(composed: Composed) -> set[str]:
    return {typed.lstrip("+~").partition("=")[0] for typed in composed.typed}
