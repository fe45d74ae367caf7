"""README.md and docs/: every command is accepted, every block runs, and what they name exists.

`make test` composes every `mmft` command of every page and runs the README's blocks; `make test-all` runs the blocks
of every page in order, in a folder of small stand-ins (`doc_blocks`). What cannot run here is in `NOT_RUN`, with its
reason, and is composed all the same.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from doc_blocks import CHECKOUT, ENCODERS, PAGES, RUN, Block, blocks, lines, stood_in, words, write_tables
from make_shapes import Shapes
from PIL import Image
from runs import Run

import mmft
from mmft.cli.flags import parse_flags
from mmft.cli.main import main
from mmft.config import plugins
from mmft.config.compose import compose
from mmft.config.schema.root import COMMANDS
from mmft.config.schema.sweep import GROUPS as SWEEP_GROUPS
from mmft.config.schema.sweep import MultirunConfig
from mmft.config.sources import Groups
from mmft.config.walk import key_names
from mmft.errors import ExitCode
from mmft.run.listing.filters import compose_runs
from mmft.run_folder import find_run
from mmft.tasks.template_sets import TEMPLATE_SETS

pytestmark = pytest.mark.usefixtures("registry_restored")

NOT_RUN: dict[str, str] = {
    "mmft serve ": "answers until it is stopped; tests/commands/test_serve.py starts and stops it",
    "mmft demo ": "answers until it is stopped; tests/commands/test_demo.py starts and stops it",
    "http://127.0.0.1": "asks a server; tests/run/test_serve.py does",
    "submitit_slurm": "needs a SLURM cluster",
    "trainer=ddp trainer.devices=4": "needs four GPUs",
    "trainer=fsdp trainer.devices=4": "needs four GPUs",
    "torchrun ": "needs four GPUs",
    "srun ": "needs a SLURM cluster",
}
"""Parts of commands and blocks that only a machine of another kind runs, and why."""

OTHER_PROGRAMS = {
    "git": "the checkout itself",
    "cd": "the checkout itself",
    "eval": "sets up the reader's own shell",
    "curl": "asks a server, which tests/run/test_serve.py does by itself",
}
"""Programs of the pages that are not ours, and why they are not run."""

QUICK = [
    *("callbacks.progress=none", "trainer.max_epochs=1", "hydra.sweeper.n_trials=2"),
    *("task.max_answer_tokens=8", "model.text_encoder.max_length=32"),
]
"""What is given to commands of training that do not say it, so that they end soon."""

SMALL_SAMPLE = ["data.limit=16", "data.max_bad_fraction=1"]
"""The same for those that train on the shipped sample."""

BEFORE = {
    "docs/search.md": "mmft train model.pair=openai/clip-vit-base-patch32 task=contrastive data.path=rows.csv "
    "data.columns.image=image data.columns.text=text",
    "docs/review.md": "mmft report run=last",
    "docs/serve.md": "mmft index run=last data.path=rows.csv out=my_index",
}
"""What a reader of a page has done before, where a finished run alone will not do."""

IDS = [page.stem for page in PAGES]


@pytest.fixture
def user_folder(shapes: Shapes, finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's working directory: tables, images, encoders, modules of their own, and a finished run."""
    for name in ("images", "image_encoder", "text_encoder"):
        (tmp_path / name).symlink_to(shapes.folder / name)
    write_tables(tmp_path, shapes.rows)
    for folder in (RUN, f"{RUN[:-1]}1"):  # two, to compare
        shutil.copytree(finished_run.path, tmp_path / folder)
    for block in (block for page in PAGES for block in blocks(page) if block.mark):
        (tmp_path / block.mark.split()[1]).write_text(block.text)
    srun = tmp_path / "bin" / "srun"  # a cluster, as far as composing a command looks for one
    srun.parent.mkdir()
    srun.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def models(
    user_folder: Path,
    pair_folder: Callable[[str], Path],
    language_model_folder: Callable[..., Path],
    whole_folder: Callable[[str], Path],
) -> None:
    """Beside the encoders, a small model of each other kind that the pages name."""
    made = {
        "pair": pair_folder("clip"),
        "language_model": language_model_folder("llama", chat=True),
        "whole_model": whole_folder("smolvlm"),
    }
    for name, folder in made.items():
        (user_folder / name).symlink_to(folder)


def write_marks(folder: Path) -> None:
    """What two people say of a run's predictions, in the working directory."""
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    for by in ("ann", "bob"):
        marks = [
            {"run": str(folder), "row": int(row["row"]), "id": row["id"], "prediction": row["prediction"]}
            | {"mark": "right", "note": "", "by": by, "time": "2026-11-28T10:00:00Z"}
            for row in rows
        ]
        Path(f"marks-{by}.jsonl").write_text("".join(f"{json.dumps(mark)}\n" for mark in marks))


def reason(text: str) -> str | None:
    """Why a command or block is not run; None for the others."""
    return next((why for part, why in NOT_RUN.items() if part in text), None)


def accept(line: str, page: str) -> None:
    """Composes a command of mmft as it stands; of another program, asserts that what it names exists."""
    program = line.split(maxsplit=1)[0]
    if re.search(r"(^|\s|-m )mmft \w", line) and program != "eval":
        command, *typed = words(line, page)
        flags = parse_flags(typed)
        if command == "runs":
            compose_runs(flags.overrides, flags.config_dirs)
        elif not flags.help:
            if flags.allow_code:
                plugins.allow_code()
            compose(command, flags.overrides, flags.config_dirs, multirun=flags.multirun)
    elif program == "make":
        assert re.search(rf"^{line.split()[1]}:", (CHECKOUT / "Makefile").read_text(), re.MULTILINE), line
    elif program == "pip":
        extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"[\w-]+(?=[,\]])", line)) <= set(extras), line
    elif program == "python":
        assert (CHECKOUT / line.split()[1]).is_file(), line
    else:
        assert program in OTHER_PROGRAMS, f"{line}: what is {program}? Name it in OTHER_PROGRAMS with a reason"


def filled_in(function: Callable[..., object]) -> Callable[..., object]:
    """`mmft.train` or `mmft.compose` with encoders where a page leaves them out, on few rows of the sample."""

    def call(*given: object, **more: object) -> object:
        if given:
            more.setdefault("model", dict(one.removeprefix("model.").split("=") for one in ENCODERS.split()))
        elif "resume" not in more:
            given = (None, SMALL_SAMPLE)
        return function(*given, **more)

    return call


def run(block: Block, names: dict[str, object]) -> None:
    """Runs a block: commands of mmft in this process, Python with `names`."""
    if block.language == "python" and not block.mark and not reason(block.text):
        exec(stood_in(block.text), names)
    for line in lines(block) if block.language == "sh" else ():
        accept(line, block.page)
        if line.startswith("mmft") and not reason(line):
            command, *typed = words(line, block.page)
            fresh = command == "train" and not any(one.startswith("resume=runs") for one in typed)
            given = {one.partition("=")[0] for one in typed}
            more = [one for one in QUICK if fresh and one.partition("=")[0] not in given]
            for option, own in {"hydra/sweeper=optuna": "hydra.", "task=generation": ("task.", "model.")}.items():
                more = [one for one in more if option in typed or not one.startswith(own)]
            if {"tune=probe", "debug=overfit"} & set(typed):
                more = [one for one in more if not one.startswith("trainer.")]
            if not {"data.path", "data.train", "resume"} & given:
                more += {"train": SMALL_SAMPLE, "predict": ["data.path=rows.csv"]}.get(command, [])
            assert main([command, *typed, *more]) == ExitCode.DONE, f"{block.page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_is_accepted(page: Path, user_folder: Path) -> None:
    (user_folder / "my_index").mkdir()  # composing a search looks for it
    for block in blocks(page):
        for line in lines(block) if block.language == "sh" else ():
            accept(line, block.page)
        if block.language == "python":
            compile(block.text, block.page, "exec")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem, marks=() if page.stem == "README" else pytest.mark.slow) for page in PAGES],
)
@pytest.mark.usefixtures("models")
def test_every_block_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "compose"):
        monkeypatch.setattr(mmft, name, filled_in(getattr(mmft, name)))
    names: dict[str, object] = {"mmft": mmft, "frame": pd.read_csv("rows.csv"), "Image": Image}
    before = BEFORE.get(page.relative_to(CHECKOUT).as_posix())
    if before:
        run(Block("", "", "sh", before), names)
    if page.stem == "review":
        write_marks(find_run("last", Path("runs")).path)
    for block in blocks(page):
        run(block, names)


def test_blocks_have_a_known_language() -> None:
    """Any other would be passed over."""
    known = {"sh", "python", "text", "csv", "json", "toml"}
    wrong = [(block.page, block.language) for page in PAGES for block in blocks(page) if block.language not in known]
    assert not wrong


def test_everything_not_run_is_there() -> None:
    typed = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not [part for part in NOT_RUN if part not in typed]


def test_options_within_sentences_exist() -> None:
    """`key=value` in a sentence: the key is one of some command, the group has the option."""
    keys = {
        key for schema in (*(root for root, _ in COMMANDS.values()), MultirunConfig) for key in key_names(schema)
    } | {"hydra.sweep.dir"}
    groups = Groups([])
    wrong = []
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`([^`\n]+)`", prose) if page.stem not in ("options", "extend") else ():
            for key, value in re.findall(r"(?:^|[ '\"])([a-z][\w./]*)=([\w.]*)", code):
                dotted, group = key.replace("/", "."), key.replace(".", "/")
                known = dotted in keys or any(dotted.startswith(f"{one}.") for one in keys) or group in SWEEP_GROUPS
                known |= groups.exists(group) and (not value or "..." in value or groups.has(group, value))
                if not known and not code.startswith(("mmft.", "eval")):
                    wrong.append(f"{page.name}: {code}")
    assert not wrong, "\n".join(wrong)


def test_sets_of_templates_have_the_sizes_that_the_pages_say() -> None:
    page = (CHECKOUT / "docs" / "pairs.md").read_text(encoding="utf-8")
    for name, size in (("simple", 7), ("openai_imagenet", 80)):
        assert f"`{name}` ({size})" in page
        assert len(TEMPLATE_SETS[name]) == size


def test_the_readme_is_short() -> None:
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90
