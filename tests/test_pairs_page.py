"""docs/pairs.md: every command is one that mmft accepts, and the names of its keys and sets exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mmft.config.compose import compose
from mmft.tasks.template_sets import TEMPLATE_SETS

PAGE = (Path(__file__).parents[1] / "docs" / "pairs.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)[1:]
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
OPTIONS = re.findall(r"`'?([\w./]+=[^`']+)'?`", PAGE.split("## What it was measured")[0])


@pytest.fixture(autouse=True)
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the tables that the page names."""
    for name in ("rows", "a", "b"):
        (tmp_path / f"{name}.csv").write_text("image,text,label\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_are_accepted(command: list[str]) -> None:
    composed = compose(command[0], command[1:])
    assert composed.config.model.pair == "openai/clip-vit-base-patch32"


def test_keys_of_the_text_exist() -> None:
    """As options of a run on a pair; those of other commands stand in the commands above."""
    rows = ["model.pair=P", "data.path=rows.csv", "data.columns.image=image", "data.columns.text=text"]
    typed = [line for line in OPTIONS if not line.startswith(("format=", "data.test"))]
    assert len(typed) > 5
    for line in typed:
        compose("train", [*rows, "task=contrastive", *shlex.split(line)])


def test_sets_of_templates_have_the_sizes_that_the_page_says() -> None:
    for name, size in (("simple", 7), ("openai_imagenet", 80)):
        assert f"`{name}` ({size})" in PAGE
        assert len(TEMPLATE_SETS[name]) == size
