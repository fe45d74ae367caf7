"""The door: every example of docs/extend.md, as a file and as an installed package, in all that a run is used for."""

from __future__ import annotations

import csv
import os
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command import Mmft
from runs import Run, TrainRun, killed_run, resumed, same_weights

import mmft as package
from mmft.cli.completion import candidates
from mmft.cli.help import command_help
from mmft.commands.predict import predict
from mmft.config import plugins, registry
from mmft.config.compose import compose
from mmft.errors import TrainingError, UserError
from mmft.run.listing.found import FoundRun, sort_runs
from mmft.run.listing.table import comparison_table
from mmft.run.loaded_model import load
from mmft.run_folder import RunFolder
from mmft.signals import Stopped

TEXT = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
EXAMPLES = {
    file: (typed.split(), code)
    for file, typed, code in re.findall(r"<!-- tested: (\S+) (.*?) -->\n```python\n(.*?)```", TEXT, re.DOTALL)
}
FUSION = EXAMPLES["my_fusion.py"][0]


pytestmark = pytest.mark.usefixtures("registry_restored")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The working directory, in which every example is a file."""
    for file, (_, code) in EXAMPLES.items():
        (tmp_path / file).write_text(code)
    os.chdir(tmp_path)
    return tmp_path


def typed(file: str) -> list[str]:
    """What one types to train with an example."""
    overrides = EXAMPLES[file][0]
    own = any(one.startswith("model/image_encoder=") for one in overrides)
    return [f"plugins=[./{file}]", *overrides, *(["optim.lr=null"] if own else [])]


def test_there_is_one_of_each_kind_and_all_are_short() -> None:
    assert len(EXAMPLES) == 9
    assert max(code.count("\n") for _, code in EXAMPLES.values()) <= 30


@pytest.mark.parametrize("file", EXAMPLES)
def test_example(file: str, folder: Path, train_run: TrainRun, shapes: Any) -> None:
    """Trains, predicts, and is loaded again."""
    plugins.allow_code()
    run = train_run(*typed(file))
    assert run.summary["status"] == "completed"
    out = folder / "predictions.csv"
    assert predict(compose("predict", [f"run={run.path}", f"data.path={shapes.rows}", f"out={out}"])) == 0
    frame = pd.read_csv(shapes.rows)
    found = load(run.path).predict(frame[["image", "text"]], root=shapes.folder)
    assert found["prediction"].tolist() == pd.read_csv(out)["prediction"].tolist()
    written = {"my_callback.py": "heartbeat", "my_logger.py": "lines.txt"}.get(file)
    assert written is None or (run.path / written).read_text()


RELATIVE = """
from dataclasses import dataclass
from torchmetrics.regression import MeanAbsolutePercentageError
from mmft.config.registry import option
from mmft.config.schema.task import RegressionConfig
from mmft.tasks.regression import Regression

@option("task", "relative", builds="relative:Relative")
@dataclass(kw_only=True)
class RelativeConfig(RegressionConfig):
    pass

class Relative(Regression):
    facts = RelativeConfig
    monitor = "mape"
    minimised = ("mape",)

    def metrics(self):
        found = super().metrics()
        found.add_metrics({"mape": MeanAbsolutePercentageError()})
        return found
"""


def test_an_own_metric_is_minimised_if_it_says_so(
    folder: Path, train_run: TrainRun, shapes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins.allow_code()
    (folder / "relative.py").write_text(RELATIVE)
    frame = pd.read_csv(shapes.rows)
    frame["label"] = 10 + frame["label"].astype("category").cat.codes
    frame.to_csv("numbers.csv", index=False)
    typed = [
        "plugins=[./relative.py]",
        "task=relative",
        "data.path=numbers.csv",
        f"data.root={shapes.folder}",
        "trainer.max_epochs=4",
    ]
    (folder / "unsaid.py").write_text(RELATIVE.replace('    minimised = ("mape",)\n', "").replace("relative", "unsaid"))
    with pytest.raises(UserError, match="mape has higher_is_better=False, .*: Relative.minimised"):
        train_run("plugins=[./unsaid.py]", "task=unsaid", *typed[2:], "name=unsaid")
    steps = [*typed, "optim.head_lr=0.3", "checkpoint.use=best"]
    run = train_run(*steps)
    assert "the best weights have the lowest val/mape" in capsys.readouterr().err
    found = [float(row["val/mape"]) for row in csv.DictReader((run.path / "metrics.csv").open()) if row["val/mape"]]
    assert len(set(found)) == 4
    assert run.summary["val"]["mape"] == pytest.approx(min(found))
    assert run.summary["minimised"] == ["mape"]
    other = train_run(*typed, "optim.head_lr=0.01", "name=other")
    assert other.summary["val"]["mape"] < run.summary["val"]["mape"]
    worse, better = both = [FoundRun(RunFolder(one.path), "") for one in (run, other)]
    assert sort_runs(both, "val/mape", []) == [better, worse]
    line = next(line for line in comparison_table(both).splitlines() if line.startswith("val/mape"))
    assert line.endswith(" *")


def test_a_killed_run_resumes_bit_for_bit(folder: Path, train_run: TrainRun, shapes_overrides: list[str]) -> None:
    plugins.allow_code()
    overrides = [*shapes_overrides, *typed("my_fusion.py")]
    whole = train_run(*typed("my_fusion.py"))
    killed_run(overrides, folder / "killed", step=3, moment="after")
    assert same_weights(resumed(overrides, folder / "killed"), whole)


def test_an_error_in_own_code_names_it_and_the_way_on(folder: Path, train_run: TrainRun) -> None:
    plugins.allow_code()
    code = EXAMPLES["my_callback.py"][1]
    (folder / "my_callback.py").write_text(code.replace("self.every == 0", "self.none == 0"))
    with pytest.raises(TrainingError, match=r"'none' \(.*my_callback.py, line \d+, .* --allow-code resume="):
        train_run(*typed("my_callback.py"))


def test_an_interrupt_by_own_code_stops_the_run(folder: Path, train_run: TrainRun) -> None:
    plugins.allow_code()
    code = EXAMPLES["my_callback.py"][1].replace(
        "if trainer.global_step", "raise KeyboardInterrupt\n        if trainer.global_step"
    )
    (folder / "my_callback.py").write_text(code)
    with pytest.raises(Stopped, match=r"Stopped by SIGINT. .* mmft train --allow-code resume="):
        train_run(*typed("my_callback.py"))


def test_without_leave_nothing_is_imported(folder: Path, shapes_overrides: list[str]) -> None:
    (folder / "my_fusion.py").write_text("from pathlib import Path\nPath('touched').touch()\n")
    with pytest.raises(UserError, match="needs --allow-code on the command line"):
        compose("train", [*shapes_overrides, *typed("my_fusion.py")])
    own = folder / "own" / "experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# @package _global_\nplugins: [./my_fusion.py]\n")
    with pytest.raises(UserError, match="needs --allow-code on the command line"):
        compose("train", [*shapes_overrides, "experiment=mine"], [folder / "own"])
    assert not (folder / "touched").exists()


def test_an_experiment_may_name_plugins(folder: Path, shapes_overrides: list[str]) -> None:
    plugins.allow_code()
    own = folder / "own" / "experiment"
    own.mkdir(parents=True)
    text = "# @package _global_\ndefaults: [{override /model/fusion: summed}, _self_]\nplugins: [./my_fusion.py]\n"
    (own / "mine.yaml").write_text(text)
    composed = compose("train", [*shapes_overrides, "experiment=mine"], [folder / "own"])
    assert composed.config.model.fusion.type == "summed"
    assert composed.config.plugins == ["./my_fusion.py"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone.py", "there is no file"),
        ("no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("my_fusion", r"type plugins=\[./my_fusion.py\]"),
        ("broken.py", "broken.py cannot be imported: ZeroDivisionError"),
    ],
)
def test_what_cannot_be_imported(name: str, said: str, folder: Path, shapes_overrides: list[str]) -> None:
    plugins.allow_code()
    (folder / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=said):
        compose("train", [*shapes_overrides, f"plugins=[{name}]"])


def test_keys_are_judged_shown_and_completed(folder: Path, shapes_overrides: list[str]) -> None:
    plugins.allow_code()
    assert folder == Path.cwd()
    with pytest.raises(UserError, match=r"no such key\. Did you mean model.fusion.width\?"):
        compose("train", [*shapes_overrides, *typed("my_fusion.py"), "model.fusion.wdth=3"])
    with pytest.raises(UserError, match="0 is out of bounds; expected an integer, at least 1"):
        compose("train", [*shapes_overrides, *typed("my_fusion.py"), "model.fusion.width=0"])
    assert "summed" in command_help("train")
    assert candidates("mmft train model/fusion=su") == ["model/fusion=summed"]


def test_a_typed_plugin_is_completed_once_code_is_allowed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my_fusion.py").write_text("print('imported')\n" + (folder / "my_fusion.py").read_text())
    line = "mmft train 'plugins=[./my_fusion.py]'"
    assert candidates(f"{line} model/fusion=su") == []
    assert not plugins.allowed()
    assert candidates(f"{line} --allow-code model/fusion=su") == ["model/fusion=summed"]
    assert candidates(f"{line} --allow-code model.fusion.wid") == ["model.fusion.width="]
    assert capsys.readouterr().out == ""  # answers alone go there


def test_a_plugin_that_cannot_be_imported_completes_nothing(folder: Path) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    line = "mmft train plugins=[./broken.py] --allow-code model/fusion=con"
    assert candidates(line) == ["model/fusion=concat"]


def test_help_shows_a_typed_plugin(folder: Path, forked_mmft: Mmft) -> None:
    said = " ".join(
        forked_mmft("train", "plugins=[./my_fusion.py]", "--allow-code", "--help", cwd=folder).stdout.split()
    )
    assert "resampler, summed" in said
    assert "(model/fusion=summed only)" in said


def test_a_moved_run_is_loaded_by_its_own_copy(folder: Path, train_run: TrainRun) -> None:
    plugins.allow_code()
    run = train_run(*typed("my_fusion.py"))
    answers = load(run.path).predict([{"image": None, "text": "mostly red"}])
    (folder / "my_fusion.py").unlink()
    sys.modules.pop("my_fusion")
    plugins._imported.clear()
    moved = run.path.rename(folder / "moved")
    assert load(moved).predict([{"image": None, "text": "mostly red"}]) == answers


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_in_processes_of_their_own(folder: Path, forked_mmft: Mmft, shapes: Any) -> None:
    """A sweep of an own fusion side by side with an own task, then all that a run is used for."""
    rows = [o for o in shapes.overrides if not o.startswith(("trainer.max_epochs", "name="))]
    quick = ["data.limit=24", "trainer.max_epochs=1", "modality_report=false", "callbacks.progress=none"]
    both = ["plugins=[./my_fusion.py,./my_task.py]", "model/fusion=summed", "task=poly"]
    refused = forked_mmft("train", *rows, *quick, *both, cwd=folder, check=False)
    assert (refused.returncode, "--allow-code" in refused.stderr) == (2, True)
    forked_mmft(
        "train",
        "-m",
        "--allow-code",
        *rows,
        *quick,
        *both,
        "model.fusion.width=8,16",
        "hydra/launcher=joblib",
        cwd=folder,
    )
    run = next(folder.glob("runs/train/*/0"))
    for command in ("test", "predict", "embed", "explain", "export"):
        more = {"predict": ["out=p.csv"], "embed": ["out=e.npz"], "explain": ["out=pages", "rows=[1]", "points=4"]}
        done = forked_mmft(command, f"run={run}", *more.get(command, []), cwd=folder, check=False)
        assert (done.returncode, "--allow-code" in done.stderr) == (2, True), command
        forked_mmft(command, f"run={run}", *more.get(command, []), "--allow-code", cwd=folder)
    assert len(pd.read_csv(folder / "p.csv")) == 240
    forked_mmft(
        "train", "--allow-code", *rows, *quick, *both, "model.fusion.width=8", f"init={run}", "name=second", cwd=folder
    )
    ranks = ["trainer.devices=2", "trainer.accelerator=cpu", "name=two"]
    forked_mmft("train", "--allow-code", *rows, *quick, *both, *ranks, cwd=folder)
    assert Run(next(folder.glob("runs/two/*"))).summary["status"] == "completed"


class _Package:
    name, version = "my-package", "1.0"


def test_an_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch, train_run: TrainRun) -> None:
    monkeypatch.syspath_prepend(folder)
    point = EntryPoint("my_fusion", "my_fusion", plugins.GROUP)
    broken = EntryPoint("broken", "no_such_module", plugins.GROUP)
    for one in (point, broken):
        vars(one)["dist"] = _Package()
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point, broken] if group == plugins.GROUP else [])
    plugins.installed.cache_clear()
    try:
        found = plugins.installed()
        assert [one.options for one in found] == [("model/fusion=summed",), ()]
        assert "ModuleNotFoundError" in found[1].error
        run = train_run(*FUSION)
        assert load(run.path).saved.config.model.fusion.type == "summed"
        del registry._OPTIONS["model/fusion"]["summed"]
        monkeypatch.setattr(plugins, "entry_points", lambda **_: [])
        plugins.installed.cache_clear()
        with pytest.raises(UserError, match="model/fusion=summed belongs to the package my-package 1.0, which is not"):
            load(run.path)
    finally:
        plugins.installed.cache_clear()


def test_python_gives_leave_by_an_argument(folder: Path, train_run: TrainRun) -> None:
    plugins.allow_code()
    run = train_run(*typed("my_fusion.py"))
    plugins._imported.clear()
    plugins._allowed = False
    with pytest.raises(UserError, match="allow_code=True"):
        package.load(run.path)
    assert folder == Path.cwd()
    assert package.load(run.path, allow_code=True).labels


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("my_fusion.py", "return torch.relu(", "return torch.relu(0 * image.pooled[:, :1] + ", None),
        (
            "my_fusion.py",
            "(text.pooled))\n",
            "(text.pooled))[:, :5]\n",
            r"SummedFusion.forward gives \(\d+, 5\), and its width",
        ),
        ("my_fusion.py", "return torch.relu(", "torch.relu(", "SummedFusion.forward gives a NoneType"),
        (
            "my_fusion.py",
            "image, text, width):",
            "image, text):",
            "SummedFusion is given width, image, text, and got an",
        ),
        ("my_fusion.py", "    facts = SummedConfig\n", "", "model/fusion=summed: SummedFusion has no `facts`"),
        ("my_fusion.py", "        self.width = width\n", "", "model/fusion=summed: SummedFusion has no `width`"),
        (
            "my_fusion.py",
            'builds="my_fusion:',
            'builds="no_fusion:',
            "builds='no_fusion:SummedFusion' cannot be imported",
        ),
        ("my_fusion.py", '"model/fusion", "summed"', '"model/fusion", "concat"', "is an option of mmft already"),
        ("my_task.py", "* batch.weight).sum()", "* batch.weight)", r"Poly.loss_sum gives \(\d+,\), and not the sum"),
        (
            "my_optimizer.py",
            "RMSprop(groups, alpha=alpha)",
            "None",
            "optim=rmsprop: .*gives None; it has to give a Optimizer",
        ),
        ("my_schedule.py", "return (1", "(1", "Root.shape gives None, and not the factor"),
        (
            "my_logger.py",
            "def start(self, folder, config):",
            "def start(self, folder):",
            "Lines.start is called with 2",
        ),
        (
            "my_augmentation.py",
            "to(torch.uint8)",
            "to(torch.uint8)[:, :5]",
            r"an augmentation gives \(3, 5, \d+\) torch.uint8",
        ),
        ("my_augmentation.py", ".to(torch.uint8)", "", "an augmentation gives .* torch.float32; it has to give"),
    ],
)
def test_a_mistake_in_own_code_is_told(
    file: str, old: str, new: str, said: str | None, folder: Path, train_run: TrainRun
) -> None:
    """Where mmft would fail on what it gives, and nothing shows whose it is."""
    plugins.allow_code()
    code = (folder / file).read_text()
    assert old in code
    (folder / file).write_text(code.replace(old, new))
    steps = ["trainer.max_steps=2", "model.image_encoder.pretrained=true"]
    if said is None:
        train_run(*typed(file), *steps)
        return
    with pytest.raises((TrainingError, UserError), match=said):
        train_run(*typed(file), *steps)
