"""`mmft runs`: the command from what is typed to what is printed, without torch."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmft.cli.main import main
from mmft.errors import ExitCode
from mmft.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs: two of a sweep, and a stopped one."""
    monkeypatch.chdir(tmp_path)
    for job, (lr, accuracy) in enumerate([(1e-5, 0.5), (1e-3, 0.75)]):
        folder = RunFolder(Path("runs/mine/2026-01-01_00-00-00") / str(job))
        folder.write_config({"name": "mine", "seed": job, "optim": {"type": "adamw", "lr": lr}}, [], {"tune": "full"})
        started = f"2026-01-0{job + 1}T00:00:00+00:00"
        folder.update_summary(status="completed", started=started, monitor="val/accuracy", test={"accuracy": accuracy})
        folder.model.mkdir()
    other = RunFolder(Path("runs/other/2026-01-03_00-00-00"))
    other.write_config({"name": None, "seed": 5, "optim": {"type": "sgd", "lr": 1e-3}}, [], {"tune": "head_only"})
    other.update_summary(status="stopped", started="2026-01-03T00:00:00+00:00")


def listed(capsys: pytest.CaptureFixture[str], *typed: str) -> list[str]:
    """The runs on stdout, each by its last two folders."""
    assert main(["runs", *typed]) == ExitCode.DONE
    lines = capsys.readouterr().out.splitlines()[1:]
    return ["/".join(line.split()[0].split("/")[-2:]) for line in lines]


SWEEP = ["2026-01-01_00-00-00/1", "2026-01-01_00-00-00/0"]
OTHER = "other/2026-01-03_00-00-00"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], [OTHER, *SWEEP]),
        (["name=mine"], SWEEP),
        (["status=stopped"], [OTHER]),
        (["optim.lr=1e-3"], [OTHER, SWEEP[0]]),
        (["tune=full", "seed=0,5"], [SWEEP[1]]),
        (["optim=sgd"], [OTHER]),
        (["sort=test/accuracy", "limit=1"], [SWEEP[0]]),
        (["sort=seed"], [SWEEP[1], SWEEP[0], OTHER]),
        (["paths.runs=runs/mine"], SWEEP),
        (["seed=9"], []),
    ],
)
def test_list(typed: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, *typed) == expected


def test_marks_and_legend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == ExitCode.DONE
    captured = capsys.readouterr()
    marks = [line.split()[-1] for line in captured.out.splitlines()]
    assert marks[1] == "resume"
    assert marks[2] == "last"
    assert "run=last" in captured.err


def test_nothing_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "paths.runs=gone"]) == ExitCode.DONE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "There are no runs under gone" in captured.err


def test_csv_and_jsonl(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "out=-"]) == ExitCode.DONE
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["optim.lr"] for row in rows] == ["0.001", "0.001", "1e-05"]
    assert [row["test/accuracy"] for row in rows] == ["", "0.75", "0.5"]
    assert main(["runs", "out=list.jsonl", "status=completed"]) == ExitCode.DONE
    assert capsys.readouterr().out == f"{Path('list.jsonl').absolute()}\n"
    assert [json.loads(line)["seed"] for line in Path("list.jsonl").read_text().splitlines()] == [1, 0]


@pytest.mark.parametrize(
    "compare",
    [f"runs/mine/{SWEEP[1]},runs/mine/{SWEEP[0]}", "runs/mine/2026-01-01_00-00-00", f"runs/mine/{SWEEP[1]},last"],
)
def test_compare(compare: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs by name, or a sweep's by its folder."""
    assert main(["runs", f"compare={compare}", "out=-"]) == ExitCode.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"key,runs/mine/{SWEEP[1]},runs/mine/{SWEEP[0]}",
        "seed,0,1",
        "optim.lr,1e-05,0.001",
        "status,completed,completed",
        "test/accuracy,0.5,0.75",
    ]


def test_compare_those_that_the_filters_leave(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "compare=all", "name=mine"]) == ExitCode.DONE
    assert "optim.lr       0.001      1e-05\n" in capsys.readouterr().out


def test_compare_on_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    for job, values in (("0", [0.3, 0.5]), ("1", [0.6, 0.75])):
        lines = ["step,val/accuracy", *(f"{step},{value}" for step, value in enumerate(values, 1))]
        folder = RunFolder(Path("runs/mine/2026-01-01_00-00-00") / job)
        folder.metrics.write_text("\n".join(lines) + "\n")
        (folder.path / "overrides.yaml").write_text("- optim.lr=1\n")
        folder.update_summary(val={"accuracy": values[-1]})
    assert main(["runs", "compare=all", "name=mine", "out=page.html"]) == ExitCode.DONE
    assert capsys.readouterr().out == f"{Path('page.html').absolute()}\n"
    page = Path("page.html").read_text()
    assert "2 runs; of what was typed differ: optim.lr." in page
    assert "Run [1] has the best val/accuracy: 0.7500." in page
    assert re.search(r'<tr class="marked"><td>\[1\]</td><td>completed</td><td[^>]*>0.001</td>', page)
    assert re.search(r"<td>test/accuracy</td><td[^>]*>0.75 \*</td><td[^>]*>0.5</td>", page)
    assert [title for title in ("optim.lr", "val/accuracy") if f'aria-label="{title}"' not in page] == []
    assert "<td>[1]</td><td>runs/mine/2026-01-01_00-00-00/1</td>" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_rows_that_a_run_keeps_for_itself_tell_it_from_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    for job in ("0", "1"):
        folder = RunFolder(Path("runs/mine/2026-01-01_00-00-00") / job)
        config = folder.read_config() | {"data": {"path": str(folder.path.absolute() / "rows.parquet")}}
        folder.config.write_text(json.dumps(config))
        (folder.path / "overrides.yaml").write_text("- data.path=rows.parquet\n- optim.lr=1\n")
    assert main(["runs", "name=mine"]) == ExitCode.DONE
    assert capsys.readouterr().out.split()[:3] == ["run", "optim.lr", "status"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("out=page.html", "Type compare=RUN,RUN, or compare=all"),
        ("compare=last", "1 runs; a comparison needs at least two"),
        ("compare=gone,last", "compare=gone: there is no such folder"),
        ("sort=tset/accuracy", "Did you mean test/accuracy?"),
        ("optim.lrr=1", "Did you mean optim.lr?"),
    ],
)
def test_what_is_wrong(typed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", typed]) == ExitCode.USER
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def test_nothing_heavy_is_imported() -> None:
    code = "import sys; from mmft.cli.main import main; main(['runs', 'name=mine']); print('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.rpartition("MODULES")[2].split()}
    assert "mmft" in loaded
    assert not {"torch", "lightning", "transformers", "timm", "numpy", "pandas", "rich"} & loaded


def test_choices_of_a_run_are_those_of_its_first_start(tmp_path: Path) -> None:
    """A resumed run is composed anew, with the defaults' choices."""
    folder = RunFolder(tmp_path / "run")
    folder.write_config({}, ["tune=head_only"], {"tune": "head_only"})
    folder.write_config({}, ["resume=last"], {"tune": "full"})
    assert folder.read_summary()["choices"] == {"tune": "head_only"}
