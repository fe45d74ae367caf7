"""Language models and whole models by layer: gradual unfreezing, layer-wise rates, and the store of frozen work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from generative_rows import typed_for_generation, with_gaps
from make_shapes import Shapes
from runs import QUICK, Run, same_weights
from thawing import Watching
from torch import Tensor

from mmft import build
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError

Folder = Callable[..., Path]
Typed = Callable[..., list[str]]
KINDS = ["llama", pytest.param("qwen3", marks=pytest.mark.slow), pytest.param("idefics3", marks=pytest.mark.slow)]
TIED = ("qwen3",)
SGD = ["optim=sgd", "optim.lr=0.1", "optim.clip_norm=null", "model.dropout=0", "schedule=constant", "schedule.warmup=0"]


@pytest.fixture
def typed(shapes: Shapes, language_model_folder: Folder, whole_folder: Folder, tmp_path: Path) -> Typed:
    """`typed(kind, *more)`: overrides of a run of a projected language model or a whole model."""
    rows = tmp_path / "rows.csv"
    with_gaps(shapes).to_csv(rows, index=False)

    def overrides(kind: str, *more: str) -> list[str]:
        if kind != "idefics3":
            return [*typed_for_generation(shapes, language_model_folder(kind)), *more]
        own = [one for one in shapes.overrides if not one.startswith("model.")]
        data = [f"data.path={rows}", f"data.root={shapes.rows.parent}"]
        model = [f"model.whole={whole_folder(kind)}", "task=generation", "task.max_answer_tokens=8"]
        return [*own, *QUICK, *data, *model, "tune/image_encoder=freeze", "optim.lr=null", *more]

    return overrides


def watched(
    typed: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Watching, list[dict[str, Tensor]]]:
    """All weights at the start, after epoch 0 and at the end of a run."""
    watching, callbacks = Watching(), build.build_callbacks
    monkeypatch.setattr(build, "build_callbacks", lambda *given: [*callbacks(*given), watching])
    assert train(compose("train", typed), folder) == 0
    monkeypatch.setattr(build, "build_callbacks", callbacks)
    return watching, watching.seen


def moved(before: dict[str, Tensor], after: dict[str, Tensor], plan: Any) -> set[str]:
    """Names of weights of the language model that contribute to its output and have changed."""
    names = {f"text_encoder.{name}" for name in plan.usable["text_encoder"]}
    return {name for name in names if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_join_from_the_top(kind: str, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune = ["tune/text_encoder=gradual", "tune.text_encoder.schedule={0:1,1:-1}", "checkpoint.use=last"]
    watching, (start, middle, end) = watched(typed(kind, *SGD, *tune), tmp_path / "run", monkeypatch)
    plan = watching.module.plan
    layers = {f"text_encoder.{name}": layer for name, layer in plan.usable["text_encoder"].items()}
    top = max(layers.values())
    first = moved(start, middle, plan)
    assert first == {name for name, layer in layers.items() if layer >= top - 1}
    assert any("lm_head" in name for name in first) == (kind not in TIED)  # a tied head is the embedding: layer 0
    assert moved(middle, end, plan) == set(layers)
    frozen = [name for name in start if name.startswith("image_encoder.")]
    assert all(torch.equal(start[name], end[name]) for name in frozen)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_fall_from_layer_to_layer(
    kind: str, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = typed(kind, *SGD, "tune/text_encoder=full", "optim.weight_decay=0", "trainer.max_steps=1")
    own += ["checkpoint.use=last", "trainer.precision=64-true"]
    changes = []
    for decay in ("1.0", "0.5"):
        folder = tmp_path / decay
        watching, seen = watched([*own, f"optim.layer_decay={decay}"], folder, monkeypatch)
        changes.append({name: seen[-1][name] - seen[0][name] for name in watching.module.plan.names})
    alike, falling = changes
    layers = {f"text_encoder.{name}": layer for name, layer in watching.module.plan.usable["text_encoder"].items()}
    top = max(layers.values())
    assert len(set(layers.values())) == 4  # embedding, two blocks, norm and head
    for name, change in alike.items():
        factor = 0.5 ** (top - layers[name]) if name in layers else 1.0
        assert change.abs().max() > 0 or name not in layers, name
        torch.testing.assert_close(falling[name], factor * change, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", []),
        pytest.param("llama", ["task.packing=true"], marks=pytest.mark.slow),
        pytest.param("llama", ["tune/image_encoder=last_n"], marks=pytest.mark.slow),
        pytest.param("llama", ["tune/text_encoder=last_n"], marks=pytest.mark.slow),
        pytest.param("qwen3", ["task.choices=[red disc,blue cross]"], marks=pytest.mark.slow),
        pytest.param("idefics3", [], marks=pytest.mark.slow),
    ],
)
def test_what_frozen_layers_compute_is_kept(kind: str, more: list[str], typed: Typed, tmp_path: Path) -> None:
    store = tmp_path / "store"
    runs = []
    for number, cache in enumerate(("never", "always", "always")):
        own = typed(kind, "tune/text_encoder=lora", *more, f"cache={cache}", f"paths.cache={store}")
        own.append("trainer.precision=32-true")
        assert train(compose("train", own), tmp_path / str(number)) == 0
        runs.append(Run(tmp_path / str(number)))
        assert store.exists() == (cache == "always")
    for run in runs[1:]:
        assert same_weights(runs[0], run)
        assert runs[0].metrics == run.metrics
        assert runs[0].summary["test"] == run.summary["test"]
    assert list(store.glob("*/*.shard"))


def test_fsdp_says_what_to_type(typed: Typed) -> None:
    with pytest.raises(UserError, match="fsdp does not go with task=generation yet. Type trainer.strategy=ddp"):
        compose("train", typed("llama", "trainer=fsdp", "trainer.devices=2", "trainer.accelerator=cpu"))
