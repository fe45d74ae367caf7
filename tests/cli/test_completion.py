"""Tab completion, as in bash: the installed function is called with the variables that bash sets."""

from __future__ import annotations

import os
import pty
import select
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mmft.cli.completion import candidates
from mmft.cli.flags import parse_flags
from mmft.cli.main import main
from mmft.config.schema.root import COMMANDS
from mmft.config.walk import key_names
from mmft.errors import ExitCode

ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # has the command mmft


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a table, a run, and a folder of user YAML files."""
    (tmp_path / "rows.csv").touch()
    (tmp_path / "a b.csv").touch()
    (tmp_path / "runs" / "mine" / "2026-11-01_10-00-00").mkdir(parents=True)
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)


def complete(line: str) -> list[str]:
    return candidates(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mmft tr", ["train"]),
        ("mmft --v", ["--version"]),
        ("mmft gone x", []),
        ("mmft train trainer.max_e", ["trainer.max_epochs="]),
        ("mmft train optim.l", ["optim.layer_decay=", "optim.lr="]),
        ("mmft train mod", ["modality_report=", "model.", "model/", "model="]),
        ("mmft train model/", ["model/fusion=", "model/image_encoder=", "model/text_encoder="]),
        ("mmft train tune", ["tune.", "tune/", "tune="]),
        ("mmft train schedule=c", ["schedule=constant", "schedule=cosine"]),
        ("mmft train -m optim=adamw,s", ["optim=adamw,sgd"]),
        ("mmft train debug=o", ["debug=overfit"]),
        ("mmft train swee", []),  # conf/sweep is for wandb
        ("mmft train -m hyd", ["hydra.", "hydra/"]),
        ("mmft train -m hydra/", ["hydra/launcher=", "hydra/sweeper="]),
        ("mmft train -m hydra/sweeper=o", ["hydra/sweeper=optuna"]),
        ("mmft train --multirun hydra.sweeper.n_t", ["hydra.sweeper.n_trials="]),
        ("mmft train -m hydra.sweeper.sampler=", [f"hydra.sweeper.sampler={n}" for n in ("gp", "random", "tpe")]),
        ("mmft train hydra/sweeper=o", []),
        ("mmft train checkpoint.use=s", ["checkpoint.use=soup_greedy", "checkpoint.use=soup_uniform"]),
        ("mmft train modality_report=t", ["modality_report=true"]),
        ("mmft train data.path=ro", ["data.path=rows.csv"]),
        ("mmft train data.path=", ["data.path=null", "data.path=own/", "data.path=rows.csv", "data.path=runs/"]),
        ("mmft train data.path=./ru", ["data.path=./runs/"]),
        ("mmft train --config-dir o", ["own/"]),
        (
            "mmft train --config-dir own experiment=",
            ["experiment=caption", "experiment=clipart", "experiment=mine", "experiment=vqa"],
        ),
        ("mmft train --config-dir=own experiment=m", ["experiment=mine"]),
        ("mmft train --cfg ", ["all", "hydra", "job"]),
        ("mmft train --mul", ["--multirun"]),
        ("mmft test --mul", []),
        ("mmft predict ou", ["out="]),
        ("mmft predict optim", []),  # mmft predict has no groups
        ("mmft test run=la", ["run=last"]),
        ("mmft test run=", ["run=last", "run=null", "run=own/", "run=runs/"]),
        ("mmft test run=runs/mine/", ["run=runs/mine/2026-11-01_10-00-00/"]),
        ("mmft runs st", ["status="]),
        ("mmft runs status=c", ["status=completed"]),
        ("mmft runs optim.lr", ["optim.lr="]),
        ("mmft runs tune=h", ["tune=head_only"]),
        ("mmft runs compare=last,la", ["compare=last,last"]),
        ("mmft doctor ", ["paths."]),
        ("mmft doctor paths.", ["paths.runs="]),
    ],
)
def test_candidates(line: str, expected: list[str]) -> None:
    assert complete(line) == sorted(expected)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_can_be_reached(command: str) -> None:
    """Step by step from an empty word, as a user completes it."""
    for key in key_names(COMMANDS[command].config):
        word = ""
        while word != f"{key}=":
            steps = [found for found in complete(f"mmft {command} {word}") if f"{key}=".startswith(found)]
            assert steps, f"{word} does not lead to {key}"
            word = max(steps, key=len)


def test_every_flag_that_is_offered_is_one() -> None:
    for flag in complete("mmft train -"):
        value = {"--cfg": ["job"], "--config-dir": ["own"]}.get(flag, ["--cfg", "job"] if flag == "--resolve" else [])
        parse_flags([flag, *value])


def in_bash(line: str, setup: str = "") -> list[str]:
    """Answers of the installed function in bash, with trailing spaces visible; `|` ends each answer.

    bash itself splits a line into COMP_WORDS at the characters of COMP_WORDBREAKS; the function must not care.
    """
    program = f"""
        eval "$(mmft -sc install=bash)"
        {setup}
        complete -p mmft >&2 || exit 9
        COMP_LINE={shlex.quote(line)} COMP_POINT=${{#COMP_LINE}} COMP_WORDS=(mmft) COMP_CWORD=1
        COMP_POINT=${{#COMP_LINE}}
        _mmft_complete
        printf '%s|\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "-F _mmft_complete mmft" in done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mmft ru", ["runs |"]),
        ("mmft train trainer.max_e", ["trainer.max_epochs=|"]),
        ("mmft train optim=s", ["sgd |"]),  # readline replaces what is after the =
        ("mmft runs status=completed optim.lr", ["optim.lr=|"]),
        ("mmft test run=runs/m", ["runs/mine/|"]),
        ("mmft predict data.path=ro", ["rows.csv |"]),
        ("mmft gone ", ["|"]),
    ],
)
def test_in_bash(line: str, expected: list[str]) -> None:
    assert in_bash(line) == expected


def test_in_bash_where_an_equals_sign_breaks_no_word() -> None:
    """As after installing the completion of another Hydra program."""
    assert in_bash("mmft train optim=s", "COMP_WORDBREAKS=${COMP_WORDBREAKS//=}") == ["optim=sgd |"]


def test_a_tab_in_an_interactive_bash() -> None:
    """End to end in a terminal: what the user sees after pressing tab."""
    parent, child = pty.openpty()
    command = ["bash", "--norc", "--noprofile", "-i"]
    environment = ENVIRONMENT | {"TERM": "dumb", "PS1": "ready> "}
    shell = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True)
    os.close(child)
    try:
        until(parent, b"ready> ")
        os.write(parent, b'eval "$(mmft -sc install=bash)"\n')
        until(parent, b"ready> ")
        os.write(parent, b"echo; mmft run\t")
        until(parent, b"mmft runs ")
        os.write(parent, b"sta\tc\tsort=nam\t")
        until(parent, b"status=completed sort=nam")
    finally:
        shell.kill()
        shell.wait()
        os.close(parent)


def until(terminal: int, expected: bytes) -> None:
    """Reads from a terminal until the expected text appears."""
    seen = b""
    while expected not in seen:
        ready, _, _ = select.select([terminal], [], [], 30)
        assert ready, f"the terminal shows {seen!r}"
        seen += os.read(terminal, 4096)


@pytest.mark.parametrize("words", [["install=tcsh"], ["install"], [], ["query=bash", "x"], ["remove=bash"]])
def test_anything_else(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-sc", *words]) == ExitCode.USER
    assert "type mmft -sc install=SHELL" in capsys.readouterr().err


def test_uninstall() -> None:
    program = (
        'eval "$(mmft -sc install=bash)"; eval "$(mmft -sc uninstall=bash)"; complete -p mmft; type _mmft_complete'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert "no completion specification" in done.stderr
