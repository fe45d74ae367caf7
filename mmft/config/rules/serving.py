"""Rules about `mmft serve` and `mmft demo`; `by` tells the marks of the latter from those that `mmft review` reads."""

from __future__ import annotations

from mmft.config.rules.base import use_rule
from mmft.config.schema.root import DemoConfig, ServeConfig
from mmft.config.wording import show
from mmft.files import located


@use_rule("max_queue", "max_rows")
def _queue_holds_a_request(c: ServeConfig) -> str | None:
    if c.max_rows <= c.max_queue:
        return None
    return f"{c.max_queue} is less than max_rows={c.max_rows}, so that a full request never fits. Type a larger one"


@use_rule("max_pending_mb", "max_body_mb")
def _memory_holds_a_request(c: ServeConfig) -> str | None:
    if c.max_body_mb <= c.max_pending_mb:
        return None
    return f"{c.max_pending_mb} is less than max_body_mb={c.max_body_mb}, so that it never fits. Type a larger one"


@use_rule("marks", "by")
def _marks_can_be_written(c: DemoConfig) -> str | None:
    if c.marks is None:
        return None
    file = located(c.marks)
    if file.suffix != ".jsonl":
        return f"{show(c.marks)}: unknown file extension; expected .jsonl"
    if not file.absolute().parent.is_dir():
        return f"there is no folder {file.parent}; create it first"
    return f"{show(c.marks)} is a folder; type marks=FILE" if file.is_dir() else None


@use_rule("marks", "run", "by")
def _marks_have_a_place(c: DemoConfig) -> str | None:
    return "a pair has no folder for them. Type marks=FILE" if c.run is None and c.marks is None else None
