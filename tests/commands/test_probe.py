"""`mmft train tune=probe`: a run like any other, solved at once; what it reads, leaves out, compares and refuses."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command import Mmft
from runs import Run, resumed
from torch import Tensor, nn

import mmft
from mmft import build
from mmft.commands.check import check
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.data.splitting.splits import load_splits
from mmft.errors import TrainingError, UserError
from mmft.models.frozen_part import FrozenPart
from mmft.tasks.classification import Classification
from mmft.tasks.side_by_side import Heads
from mmft.training import frozen_cache
from mmft.training.hardware import choose_hardware
from mmft.training.linear_head import STRENGTHS

ProbeRun = Callable[..., Run]


@pytest.fixture
def probe_overrides(shapes: Any, tmp_path: Path) -> list[str]:
    """The overrides that probe the session's sample, with a store of their own."""
    of_steps = ("optim.", "trainer.max_epochs")
    rows = [typed for typed in shapes.overrides if not typed.startswith(of_steps)]
    return [*rows, "tune=probe", f"paths.cache={tmp_path / 'store'}", "callbacks.progress=none"]


@pytest.fixture
def probe_run(tmp_path: Path, probe_overrides: list[str]) -> ProbeRun:
    numbers = itertools.count()

    def run(*typed: str, folder: Path | None = None) -> Run:
        path = folder or tmp_path / "runs" / "shapes" / str(next(numbers))
        assert train(compose("train", [*probe_overrides, *typed]), path) == 0
        return Run(path)

    return run


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of rows of every pass of an encoder."""
    counted: list[int] = []
    compute = FrozenPart.compute

    def counting(self: FrozenPart, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        counted.append(len(inputs[0]))
        return compute(self, inputs)

    monkeypatch.setattr(FrozenPart, "compute", counting)
    return counted


def _rows(shapes: Any) -> pd.DataFrame:
    frame = pd.read_csv(shapes.rows)
    frame["number"] = frame["label"].map({name: at for at, name in enumerate(sorted(set(frame["label"])))}) * 1.5
    frame["other"] = -frame["number"]
    frame["answers"] = frame["label"].str.replace(" ", "|")
    return frame


def _given(frame: pd.DataFrame, shapes: Any) -> list[dict[str, str]]:
    """Rows as `predict` takes them."""
    return [{"image": str(shapes.rows.parent / row.image), "text": row.text} for row in frame.itertuples()]


def _log(run: Run) -> str:
    return (run.path / "train.log").read_text()


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_it_is_a_run_like_any_other(kind: str, probe_run: ProbeRun, shapes: Any) -> None:
    run = probe_run(f"tune.probe={kind}")
    told = run.summary
    assert told["status"] == "completed"
    assert told["optimizer_steps"] == told["epochs"] == 0
    assert told["probe"]["kind"] == kind
    assert told["probe"]["chosen_by"] == "val/accuracy"
    assert told["probe"]["value"] == pytest.approx(told["val"]["accuracy"])
    assert told["test"]["accuracy"] > 0.4  # of six labels
    assert set(told["modalities"]) == {"majority", "text", "image", "both"}
    for name in ("config.yaml", "train.log", "tuning.csv", "confusion_matrix.csv", "model/model.safetensors"):
        assert (run.path / name).is_file()
    frame = _rows(shapes).query("split == 'test'")
    predicted = [answer["prediction"] for answer in mmft.load(run.path).predict(_given(frame, shapes))]
    right = [one == label for one, label in zip(predicted, frame["label"], strict=True)]
    assert sum(right) / len(right) == pytest.approx(told["test"]["accuracy"], abs=1e-6)


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_prediction_is_the_head_on_both_features(
    kind: str, probe_run: ProbeRun, shapes: Any, probe_overrides: list[str]
) -> None:
    run = probe_run(f"tune.probe={kind}")
    loaded = mmft.load(run.path)
    answers = loaded.predict(_given(_rows(shapes).query("split == 'test'"), shapes))
    config = compose("train", probe_overrides).config
    choose_hardware(config.trainer)
    splits = load_splits(config.data, config.seed)
    rows = build.build_data(config, splits, loaded.model, loaded.saved.task).datasets["test"]
    pooled = build.EncoderFeatures(config, loaded.model).of(rows)
    with torch.no_grad():
        logits = loaded.model.head(torch.cat([pooled["image"].values, pooled["text"].values], 1))
    scores = torch.tensor([[answer[f"score_{name}"] for name in loaded.labels] for answer in answers])
    assert torch.allclose(logits.softmax(1), scores, atol=1e-5)


def test_the_same_seed_gives_the_same_model(probe_run: ProbeRun) -> None:
    one, two = probe_run(), probe_run()
    assert all(torch.equal(one.model_state[name], two.model_state[name]) for name in one.model_state)


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_a_warm_store_is_all_that_is_read(
    kind: str, probe_run: ProbeRun, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = probe_run(f"tune.probe={kind}", "cache=always")
    assert sum(passes) > 240  # each image once, equal texts once
    passes.clear()

    def refuse(*_: Any) -> None:
        raise AssertionError("an image is decoded")

    monkeypatch.setattr("mmft.data.images.image.ImageReader.__call__", refuse)
    warm = probe_run(f"tune.probe={kind}", "cache=always")
    assert passes == []
    assert warm.summary["test"] == cold.summary["test"]


def test_nothing_is_kept_with_cache_never(probe_run: ProbeRun, tmp_path: Path) -> None:
    kept, never = probe_run("cache=always", folder=tmp_path / "kept"), probe_run("cache=never")
    assert all(torch.equal(kept.model_state[name], never.model_state[name]) for name in kept.model_state)
    assert kept.summary["test"] == never.summary["test"]


CASES = {
    "regression": ["task=regression", "data.columns.label=[number,other]"],
    "multi_label": ["task=multi_label", "data.columns.label=answers"],
    "question_answering": ["task=question_answering", "data.columns.label=answers"],
    "several": [
        "data.columns.label=[label,number]",
        "task=several",
        "task.tasks={label:classification,number:regression}",
    ],
}
REACHED = {"regression": ("r2", 0.3), "multi_label": ("map", 0.5), "question_answering": ("vqa_accuracy", 0.4)}


@pytest.mark.parametrize("kind", ["linear", "knn"])
@pytest.mark.parametrize("task", CASES)
def test_every_task_is_probed(task: str, kind: str, probe_run: ProbeRun, shapes: Any, tmp_path: Path) -> None:
    frame = _rows(shapes)
    if task == "several":
        frame.loc[::7, "number"] = None
    frame.to_csv(tmp_path / "rows.csv", index=False)
    place = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}"]
    run = probe_run(*place, *CASES[task], f"tune.probe={kind}")
    told = run.summary
    for part in told["probe"].get("parts", {"": told["probe"]}).values():
        assert part.get("l2") in STRENGTHS if kind == "linear" else part["neighbours"] >= 1
        assert part["chosen_by"].startswith("val/")
    if task == "several":
        assert isinstance(mmft.load(run.path).model.head, Heads)
        assert told["test"]["label/accuracy"] > 0.4
        assert told["test"]["number/r2"] > 0.2
    else:
        name, least = REACHED[task]
        assert told["test"][name] > least
    assert mmft.load(run.path).predict([{"text": "red", "image": None}])[0]["error"] is None


def test_a_row_without_an_image_counts_as_the_mean(probe_run: ProbeRun, shapes: Any, tmp_path: Path) -> None:
    frame = _rows(shapes)
    frame.loc[frame.index % 3 == 0, "image"] = None
    frame.to_csv(tmp_path / "rows.csv", index=False)
    run = probe_run(f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}")
    assert run.summary["rows"]["bad"] == 0
    given = _given(frame.query("split == 'train'").dropna(subset="image"), shapes)
    images = torch.from_numpy(mmft.load(run.path).embed(given)["image"])
    assert torch.allclose(run.model_state["missing_image.vector"], images.mean(0), atol=1e-4)


def test_one_modality_alone(probe_run: ProbeRun) -> None:
    run = probe_run("data.columns.image=null")
    weight = run.model_state["head.weight"]
    assert not weight[:, : len(run.model_state["missing_image.vector"])].any()
    assert run.summary["test"]["accuracy"] > 0.2
    told = probe_run("data.columns.image=null", "tune.probe=knn").summary
    assert told["test"]["accuracy"] > 0.2
    assert told["val"]["accuracy"] == pytest.approx(told["probe"]["value"])  # many rows have one text: all ties


def test_a_task_with_a_head_of_its_own_is_refused(probe_run: ProbeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classification, "make_head", lambda self, width: nn.Sequential(nn.Linear(width, self.width)))
    with pytest.raises(UserError, match="task=classification has a head of its own, Sequential, that is not linear"):
        probe_run()


def test_rows_that_cannot_be_read_are_left_out(probe_run: ProbeRun, shapes: Any, tmp_path: Path) -> None:
    frame = _rows(shapes)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    train_rows = frame.index[frame["split"] == "train"]
    frame.loc[train_rows[0], "image"] = str(tmp_path / "broken.png")
    frame.loc[train_rows[1], "label"] = None
    frame.to_csv(tmp_path / "rows.csv", index=False)
    place = [f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}"]
    run = probe_run(*place)
    assert run.summary["rows"]["bad"] == 2
    assert len((run.path / "bad_rows.csv").read_text().splitlines()) == 3
    frame.drop(index=train_rows[:2]).to_csv(tmp_path / "fewer.csv", index=False)
    fewer = probe_run(f"data.path={tmp_path / 'fewer.csv'}", f"data.root={shapes.rows.parent}")
    assert torch.allclose(run.model_state["head.weight"], fewer.model_state["head.weight"], atol=1e-5)
    with pytest.raises(UserError, match=r"2 of 240 rows are known to be bad"):
        probe_run(*place, "data.max_bad_fraction=0.005")


def test_row_weights_count(probe_run: ProbeRun, shapes: Any, tmp_path: Path) -> None:
    """A row of weight 0 is as good as none."""
    frame = _rows(shapes)
    frame["weight"] = [0.0 if at % 5 == 0 and split == "train" else 1.0 for at, split in enumerate(frame["split"])]
    place = [f"data.root={shapes.rows.parent}", "checkpoint.monitor=loss"]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    weighted = probe_run(*place, f"data.path={tmp_path / 'rows.csv'}", "data.columns.weight=weight")
    plain = probe_run(*place, f"data.path={tmp_path / 'rows.csv'}")
    assert not torch.allclose(weighted.model_state["head.weight"], plain.model_state["head.weight"], atol=1e-4)


def test_without_validation_rows_the_training_rows_are_cross_validated(
    probe_run: ProbeRun, shapes: Any, tmp_path: Path
) -> None:
    frame = _rows(shapes)
    frame[frame["split"] != "val"].to_csv(tmp_path / "rows.csv", index=False)
    run = probe_run(f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}")
    assert run.summary["probe"]["chosen_by"] == "cross-validated accuracy"
    assert "val" not in run.summary
    assert "by cross-validated accuracy" in _log(run)


def test_wrong_labels_are_named(probe_run: ProbeRun, shapes: Any, tmp_path: Path) -> None:
    frame = _rows(shapes)
    frame["label"] = frame["label"].str.split().str[0]  # the colour, which texts say
    train_rows = frame.index[frame["split"] == "train"]
    names = sorted(set(frame["label"]))
    for at in train_rows[:3]:
        frame.loc[at, "label"] = next(name for name in names if name != frame.loc[at, "label"])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    run = probe_run(f"data.path={tmp_path / 'rows.csv'}", f"data.root={shapes.rows.parent}")
    found = run.summary["probe"]["contradicted"]
    assert found >= 2
    assert f"of {len(train_rows)} training rows, {found} have a label that a probe" in _log(run)
    assert "mmft check features=true" in _log(run)
    listed = pd.read_csv(run.path / "contradicted.csv")
    assert len(listed) == found
    assert set(train_rows[:3]) & set(listed["row"])
    assert all(frame.loc[row, "label"] == label for row, label in zip(listed["row"], listed["label"], strict=True))
    assert listed["probability"].min() >= 0.9


def test_a_longer_run_is_compared_with_it(probe_run: ProbeRun, tmp_path: Path, probe_overrides: list[str]) -> None:
    here = [f"paths.runs={tmp_path / 'runs'}"]
    probe = probe_run(*here)
    probe_run(*here, "tune.probe=knn")
    rows = [typed for typed in probe_overrides if typed != "tune=probe"]

    def trained(*more: str, name: str = "shapes") -> Run:
        path = tmp_path / "runs" / name / f"long{len(list((tmp_path / 'runs').rglob('long*')))}"
        assert train(compose("train", [*rows, *here, "trainer.max_epochs=1", "tune=head_only", *more]), path) == 0
        return Run(path)

    run = trained()
    before, now = probe.summary["test"]["accuracy"], run.summary["test"]["accuracy"]
    said = f"a linear probe on frozen features ({probe.path}) has {before:.3f}: this run"
    assert f"{said} {100 * (now - before):+.1f} points" in _log(run)
    (probe.path.parent / "broken").mkdir()
    for name, content in (("summary.json", (probe.path / "summary.json").read_text()), ("config.yaml", "{")):
        (probe.path.parent / "broken" / name).write_text(content)
    for other in (trained("data.limit=20"), trained(name="another")):
        assert "a linear probe" not in _log(other)


def test_check_says_that_there_are_no_steps(probe_overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("linear", "knn"):
        assert check(compose("check", [*probe_overrides, f"tune.probe={kind}"])) == 0
        assert f"tune.probe={kind} is solved at once" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_over_kinds_and_seeds(forked_mmft: Mmft, probe_overrides: list[str], tmp_path: Path) -> None:
    done = forked_mmft("train", "-m", *probe_overrides, "tune.probe=linear,knn", "seed=0,1", cwd=tmp_path)
    assert len(pd.read_csv(Path(done.stdout.splitlines()[-1]) / "sweep.csv")) == 4


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["trainer.max_epochs=3"], r"trainer.max_epochs: changes nothing with tune.probe=linear"),
        (["optim=sgd"], r"optim: changes nothing with tune.probe=linear"),
        (["optim.head_lr=1"], r"optim.head_lr: changes nothing"),
        (["schedule=constant"], r"schedule: changes nothing"),
        (["data/augment=light"], r"data.augment: changes nothing"),
        (["data.sampler=balanced"], r"data.sampler: changes nothing"),
        (["model.modality_dropout=0.3"], r"model.modality_dropout: changes nothing"),
        (["checkpoint.use=last"], r"checkpoint.use: changes nothing"),
        (["tune.probe=knn", "task.class_weights=balanced"], r"task.class_weights: changes nothing with tune.probe=knn"),
        (["model/fusion=gated"], r"tune.probe: .*model/fusion=gated would stay untrained. Type model/fusion=linear"),
        (["tune/text_encoder=lora"], r"tune.probe: .*tune/text_encoder=lora trains"),
        (["task=contrastive"], r"tune.probe: .*task=contrastive compares .*Type tune=head_only model/fusion=dual"),
        (["task=matching"], r"tune.probe: .*task=matching compares .*Type tune=head_only model/fusion=concat"),
        (["trainer.devices=2"], r"trainer.devices: tune=probe is solved by one process"),
        (["trainer=ddp"], r"trainer.devices: tune=probe is solved by one process"),
        (["tune.probe=ridge"], r"tune.probe: ridge is not|tune.probe: 'ridge' is not allowed"),
    ],
)
def test_what_does_not_go_together_is_refused(typed: list[str], said: str, probe_overrides: list[str]) -> None:
    with pytest.raises(UserError, match=said):
        compose("train", [*probe_overrides, *typed])


def test_what_a_file_sets_in_vain_is_said(probe_overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\ntrainer:\n  max_epochs: 7\n")
    composed = compose("train", [*probe_overrides, "experiment=mine"], [tmp_path / "conf"])
    assert train(composed, tmp_path / "run") == 0
    assert "trainer.max_epochs changes nothing" in _log(Run(tmp_path / "run"))


def test_a_pair_is_probed_by_its_encoders_features(
    pair_folder: Callable[[str], Path], probe_overrides: list[str], tmp_path: Path
) -> None:
    own = [typed for typed in probe_overrides if not typed.startswith("model.")]
    composed = compose("train", [*own, f"model.pair={pair_folder('clip')}"])
    assert composed.config.model.fusion.type == "linear"
    os.chdir(tmp_path)
    assert train(composed, tmp_path / "run") == 0


def test_fine_tuning_starts_from_a_probe(probe_run: ProbeRun, probe_overrides: list[str], tmp_path: Path) -> None:
    probe = probe_run()
    rows = [typed for typed in probe_overrides if typed != "tune=probe"]
    typed = [f"init={probe.path}", "model/fusion=linear", "optim.lr=1e-9", "optim.head_lr=1e-9", "trainer.max_epochs=1"]
    assert train(compose("train", [*rows, *typed]), tmp_path / "run") == 0
    assert Run(tmp_path / "run").summary["test"]["accuracy"] == pytest.approx(probe.summary["test"]["accuracy"])


def test_encoders_alone_are_taken_from_a_run_of_neighbours(
    probe_run: ProbeRun, probe_overrides: list[str], tmp_path: Path
) -> None:
    neighbours = probe_run("tune.probe=knn")
    rows = [typed for typed in probe_overrides if typed != "tune=probe"]
    typed = [f"init={neighbours.path}", "model/fusion=linear", "tune=head_only", "trainer.max_epochs=1"]
    assert train(compose("train", [*rows, *typed]), tmp_path / "run") == 0
    assert "the head is new" in _log(Run(tmp_path / "run"))


def test_a_probe_that_failed_starts_over(
    probe_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise TrainingError("not today")

    with monkeypatch.context() as patch:
        patch.setattr(build, "solve_probe", fail)
        with pytest.raises(TrainingError, match="not today"):
            train(compose("train", probe_overrides), tmp_path / "run")
    assert Run(tmp_path / "run").summary["status"] == "failed"
    assert resumed(probe_overrides, tmp_path / "run").summary["status"] == "completed"


def test_never_computes_what_the_store_has(probe_run: ProbeRun, passes: list[int]) -> None:
    first = probe_run()
    computed = sum(passes)
    passes.clear()
    again = probe_run()
    assert sum(passes) == 0
    never = probe_run("cache=never")
    assert sum(passes) >= computed  # and to evaluate
    assert first.summary["val"] == again.summary["val"] == never.summary["val"]


def test_an_encoder_of_unknown_code_is_computed_each_time(
    probe_run: ProbeRun, passes: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(frozen_cache, "says_what_it_reads", lambda _: False)
    probe_run()
    computed = sum(passes)
    probe_run("seed=1")
    assert computed > 0
    assert sum(passes) == 2 * computed
    assert not list((tmp_path / "store").glob("*/*.shard"))


def test_what_is_solved_is_not_rounded(probe_overrides: list[str]) -> None:
    with pytest.raises(UserError, match=r"cache\.dtype: a probe is solved on features as they are computed"):
        compose("train", [*probe_overrides, "cache.dtype=int8"])
