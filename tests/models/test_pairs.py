"""Pretrained pairs of every family: what they give and learn is what plain transformers gives and learns."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from mostly_slow import mostly_slow
from PIL import Image
from pretrained_pairs import begun, check_logits, images, logits, on_pair, without_gradient
from runs import resumed
from tiny_pairs import FAMILIES, MAX_LENGTH
from torch import Tensor
from torch.nn import functional

import mmft
from mmft import build
from mmft.batch import Batch
from mmft.commands.export import export
from mmft.commands.predict import predict
from mmft.commands.test import test as run_test
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.loading.source import Source
from mmft.models.pairs.pair import Pair, load_pair
from mmft.models.vision_language_model import VisionLanguageModel
from mmft.training.module import FineTuning

TEXTS = ["a disc", "a red square on a grey background near the left border of the image", "blue"]


def of_transformers(pair: Path, normalised: Tensor, texts: list[str]) -> Tensor:
    plain, tokenizer = hf.AutoModel.from_pretrained(pair).eval(), hf.AutoTokenizer.from_pretrained(pair)
    if plain.config.model_type == "siglip":
        ids = tokenizer(texts, return_tensors="pt", padding="max_length", max_length=MAX_LENGTH, truncation=True)
        given = {"input_ids": ids["input_ids"]}
    else:
        given = dict(tokenizer(texts, return_tensors="pt", padding=True, truncation=True))
    return plain(pixel_values=normalised, **given).logits_per_image


@pytest.mark.parametrize("kind", FAMILIES)
def test_similarities_are_those_of_transformers(kind: str, pair_folder: Any) -> None:
    """For three lengths of text, in a batch and alone."""
    model, config = begun(pair_folder(kind))
    pixels = images(3)
    with torch.no_grad():
        expected = of_transformers(pair_folder(kind), model.image_encoder.normalise(pixels), TEXTS)
        assert float(expected.std()) > 1e-3
        check_logits(model, pixels, TEXTS, expected)
    assert config.data.resize == ("squash" if kind in ("siglip", "align") else "crop")
    assert config.task.loss == ("sigmoid" if kind == "siglip" else "info_nce")
    assert model.image_encoder.get_buffer("mean").flatten().tolist() == pytest.approx([122.4, 117.3, 104.55])


@pytest.mark.parametrize("resample", [3, 2])
@pytest.mark.parametrize("kind", FAMILIES)
def test_photographs_are_read_as_by_the_pairs_own_processor(
    kind: str, resample: int, pair_folder: Any, tmp_path: Path
) -> None:
    """Files of other sizes and proportions, whose pixels are noise, interpolated as the folder says."""
    check_photographs(with_processor(pair_folder(kind), tmp_path, resample=resample), tmp_path)


SIDES_40 = {"height": 40, "width": 40}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("clip", {"size": {"shortest_edge": 40}}),
        ("vision-text-dual-encoder", {"size": {"shortest_edge": 37}, "image_processor_type": "BitImageProcessor"}),
        ("clip", {"size": SIDES_40}),
        ("clip", {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [120.0] * 3}),
        ("siglip", {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
        (
            "align",
            {
                "image_processor_type": "EfficientNetImageProcessor",
                "size": SIDES_40,
                "do_center_crop": True,
                "crop_size": {"height": 32, "width": 32},
                "rescale_factor": 1 / 127.5,
                "rescale_offset": True,
                "do_normalize": False,
            },
        ),
    ],
)
def test_what_a_processor_scales_and_crops_is_what_is_read(
    kind: str, settings: dict[str, Any], pair_folder: Any, pair_run: Any, tmp_path: Path
) -> None:
    """Before training, and of a folder that is exported with a processor of its own, for another resampling."""
    folder = with_processor(pair_folder(kind), tmp_path, **settings)
    check_photographs(folder, tmp_path)
    run = pair_run(folder, "data.resample=bilinear")
    assert export(compose("export", [f"run={run.path}", "format=transformers"])) == 0
    check_photographs(run.path / "export", tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_resize": False}, "leaves images in their own size"),
        ({"size": {"shortest_edge": 24}}, "cuts squares that are larger than what it scales images to"),
        ({"do_flip_channel_order": True}, "reads images as blue, green and red"),
    ],
)
def test_a_processor_that_does_what_mmft_does_not(
    settings: dict[str, Any], said: str, pair_folder: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"its image processor {said}, .*preprocessor_config\.json"):
        begun(with_processor(pair_folder("clip"), tmp_path, **settings))


def test_a_filter_that_mmft_lacks_is_told(pair_folder: Any, tmp_path: Path, caplog: Any) -> None:
    mmft.load_pair(with_processor(pair_folder("clip"), tmp_path, resample=1))
    assert "scaled by Pillow's filter 1; mmft takes the bicubic one" in caplog.text


def with_processor(pair: Path, tmp_path: Path, **settings: Any) -> Path:
    """A copy of a pair with other settings of its image processor."""
    folder = shutil.copytree(pair, tmp_path / "pair")
    own = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(own | settings))
    return folder


def check_photographs(folder: Path, tmp_path: Path) -> None:
    """That mmft scores files of other sizes as the folder's model and processor do in transformers."""
    generator = np.random.default_rng(0)
    for number, (height, width) in enumerate([(200, 301), (270, 90), (64, 65)]):
        noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.jpg", quality=95)
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    found = mmft.load_pair(folder).zero_shot(["disc", "square"], ["a {}"]).predict([{"image": str(p)} for p in paths])
    pixels = hf.AutoImageProcessor.from_pretrained(folder)([Image.open(p) for p in paths], return_tensors="pt")
    with torch.no_grad():
        expected = of_transformers(folder, pixels["pixel_values"], ["a disc", "a square"]).softmax(-1)
    scores = [[row["score_disc"], row["score_square"]] for row in found]
    assert torch.allclose(torch.tensor(scores), expected, atol=1e-5)


def test_images_have_the_size_that_the_processor_makes(pair_folder: Any, tmp_path: Path) -> None:
    """ALIGN's config says 600 pixels and its processor 289; transformers reads images of the processor's size."""
    folder = shutil.copytree(pair_folder("align"), tmp_path / "pair")
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor["size"] = {"height": 48, "width": 48}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    model, _ = begun(folder)
    assert model.image_encoder.image_size == 48
    pixels = images(3, 48)
    with torch.no_grad():
        check_logits(model, pixels, TEXTS, of_transformers(folder, model.image_encoder.normalise(pixels), TEXTS))


@pytest.mark.parametrize("fusion", ["pretrained", "concat", "cross"])
@pytest.mark.parametrize("kind", ["clip", "siglip", "vision-text-dual-encoder"])
def test_every_trained_parameter_gets_a_gradient(kind: str, fusion: str, pair_folder: Any) -> None:
    """A pooling head that token fusions do not read, and a mask token, are not trained."""
    assert not without_gradient(pair_folder(kind), fusion)


@pytest.mark.parametrize("kind", mostly_slow(["clip", "siglip", "align"], "siglip"))
def test_an_export_is_the_whole_pair_again(kind: str, pair_folder: Any, pair_run: Any) -> None:
    run = pair_run(pair_folder(kind), "tune=lora")
    assert export(compose("export", [f"run={run.path}", "format=transformers"])) == 0
    out, pixels = run.path / "export", images(3)
    model = mmft.load(run.path).model.eval()
    with torch.no_grad():
        expected = of_transformers(out, model.image_encoder.normalise(pixels), TEXTS)
        assert torch.allclose(logits(model, pixels, TEXTS), expected, atol=1e-5)
    before, after = (hf.AutoModel.from_pretrained(path).state_dict() for path in (pair_folder(kind), out))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("q_proj" in name or "query" in name for name in changed)
    assert not any("norm" in name for name in changed)  # LoRA trains linear layers alone
    assert type(hf.AutoProcessor.from_pretrained(out)).__name__.endswith("Processor")
    assert hf.AutoModel.from_pretrained(out).__class__.__name__ in (out / "README.md").read_text()
    again, _ = begun(out)
    with torch.no_grad():
        assert torch.allclose(logits(again, pixels, TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("kind", mostly_slow(["clip", "siglip", "chinese_clip"], "clip"))
def test_an_export_for_another_image_size(kind: str, pair_folder: Any, pair_run: Any) -> None:
    """A run's larger images have more positions, for which transformers needs no option."""
    run = pair_run(pair_folder(kind), "model.image_encoder.image_size=48")
    assert export(compose("export", [f"run={run.path}", "format=transformers"])) == 0
    out, pixels = run.path / "export", images(3, 48)
    model = mmft.load(run.path).model.eval()
    with torch.no_grad():
        expected = of_transformers(out, model.image_encoder.normalise(pixels), TEXTS)
        assert torch.allclose(logits(model, pixels, TEXTS), expected, atol=1e-5)
    again, _ = begun(out)
    assert again.image_encoder.image_size == 48
    with torch.no_grad():
        assert torch.allclose(logits(again, pixels, TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["siglip", "chinese_clip"])
def test_similarities_are_explained(kind: str, pair_folder: Any, pair_run: Any, shapes: Any) -> None:
    """Also of texts that are padded to one length."""
    run = pair_run(pair_folder(kind))
    row = {"image": shapes.rows.parent / "images/0000.png", "text": "a red disc"}
    (found,) = mmft.load(run.path).explain([row], points=256)
    assert [word.text for word in found.words] == row["text"].split()
    assert all(word.weight for word in found.words)
    assert abs(found.found.missed) < 0.05 * max(abs(value) for value in found.sums.values() if value is not None)


@pytest.mark.parametrize("part", ["image", "text"])
def test_another_pooling_is_no_pairs(part: str, pair_folder: Any, pair_run: Any) -> None:
    run = pair_run(pair_folder("clip"), f"model.{part}_encoder.pool=mean")
    for written in ("transformers", "open_clip"):
        with pytest.raises(UserError, match=rf"a pooling of its own, .* has model\.{part}_encoder\.pool=mean"):
            export(compose("export", [f"run={run.path}", f"format={written}"]))


def test_what_cannot_be_exported_as_a_pair(pair_folder: Any, pair_run: Any, train_run: Any) -> None:
    run = pair_run(pair_folder("clip"), "task=classification", "data.columns.label=label")
    with pytest.raises(UserError, match="the head of task=classification has no place in it"):
        export(compose("export", [f"run={run.path}", "format=transformers"]))
    biased = pair_run(pair_folder("clip"), "task.loss=sigmoid")
    with pytest.raises(UserError, match="a bias of similarities .* has no place"):
        export(compose("export", [f"run={biased.path}", "format=sentence_transformers"]))
    other = train_run("trainer.max_epochs=1")
    with pytest.raises(UserError, match="has model/fusion=concat. Type format=hf"):
        export(compose("export", [f"run={other.path}", "format=transformers"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_twenty_steps_are_those_of_a_plain_loop(
    kind: str, pair_folder: Any, shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[tuple[Tensor, Tensor, Tensor]] = []
    step = FineTuning.training_step

    def noting(self: FineTuning, batch: Batch, number: int) -> Any:
        assert batch.pixel_values is not None
        assert batch.input_ids is not None
        assert batch.attention_mask is not None
        batches.append((batch.pixel_values.clone(), batch.input_ids.clone(), batch.attention_mask.clone()))
        return step(self, batch, number)

    monkeypatch.setattr(FineTuning, "training_step", noting)
    exact = ["optim.lr=1e-3", "optim.weight_decay=0", "optim.clip_norm=null", "schedule=constant", "schedule.warmup=0"]
    exact += ["trainer.precision=64-true", "model.dropout=0", "checkpoint.use=last", "trainer.max_steps=20"]
    assert (
        train(compose("train", on_pair(pair_folder(kind), shapes, "data.batch_size=8", *exact)), tmp_path / "run") == 0
    )
    assert len(batches) == 20
    model = mmft.load(tmp_path / "run").model
    plain: Any = hf.AutoModel.from_pretrained(pair_folder(kind)).double().train()
    _no_dropout(plain)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0)
    for pixels, ids, mask in batches:
        similarities = _similarities(plain, model, pixels, ids, mask)
        loss = _loss(kind, similarities, ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parts = {
        "vision_model.": "image_encoder.backbone.",
        "text_model.": "text_encoder.backbone.",
        "visual_projection.": "fusion.image.",
        "text_projection.": "fusion.text.",
        "logit_scale": "head.log_scale",
        "logit_bias": "head.bias",
    }
    mine = dict(model.double().named_parameters())
    for name, weight in plain.named_parameters():
        theirs, own = next((a, b) for a, b in parts.items() if name.startswith(a))
        found = mine[own + name[len(theirs) :]]
        assert torch.allclose(found, weight.reshape(found.shape), atol=1e-10), name


def _no_dropout(model: Any) -> None:
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _similarities(plain: Any, model: VisionLanguageModel, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    normal = (pixels.double() - model.image_encoder.get_buffer("mean")) / model.image_encoder.get_buffer("std")
    if model.text_encoder.fixed_length:
        padding = model.text_encoder.tokenizer.pad_token_id
        ids = functional.pad(ids.masked_fill(~mask, padding), (0, MAX_LENGTH - ids.shape[1]), value=padding)
        return plain(pixel_values=normal, input_ids=ids).logits_per_image  # type: ignore[no-any-return]
    return plain(pixel_values=normal, input_ids=ids, attention_mask=mask.long()).logits_per_image  # type: ignore[no-any-return]


def _loss(kind: str, similarities: Tensor, ids: Tensor) -> Tensor:
    """The pair's own loss, with equal texts as positives of each other."""
    same = (ids[:, None] == ids).all(-1)
    if kind == "siglip":
        return -functional.logsigmoid(similarities * (2 * same.double() - 1)).sum(-1).mean()
    wanted = same.double() / same.double().sum(-1, keepdim=True)
    return (functional.cross_entropy(similarities, wanted) + functional.cross_entropy(similarities.T, wanted)) / 2


def test_a_pair_without_a_run(pair_folder: Any, shapes: Any, tmp_path: Path) -> None:
    pair = mmft.load_pair(pair_folder("clip"), image="image", text="text")
    rows = [{"image": str(path), "text": "a disc"} for path in sorted(shapes.rows.parent.rglob("*.png"))[:4]]
    assert [row["error"] for row in pair.predict(rows)] == [None] * 4
    assert pair.embed(rows)["image"].shape == (4, 24)
    named = pair.zero_shot(["disc", "square"], ["a {}", "the {} here"])
    found = named.predict(rows)
    assert {row["prediction"] for row in found} <= {"disc", "square"}
    out = tmp_path / "answers.csv"
    typed = [f"model.pair={pair_folder('clip')}", f"data.path={shapes.rows}", "data.columns.image=image", f"out={out}"]
    assert predict(compose("predict", [*typed, "zero_shot.labels=[disc,square]"])) == 0
    assert out.read_text().startswith("row,id,prediction,score,score_disc,score_square,error")


def test_frozen_parts_stay_and_are_found_again(
    pair_folder: Any, pair_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiT: the image encoder and the projections are frozen. The pair's file is read once."""
    run = pair_run(pair_folder("clip"), "tune/image_encoder=freeze", "tune.fusion=freeze")
    read = []

    def noting(source: Source, pretrained: bool) -> Pair:
        read.append(pretrained)
        return load_pair(source, pretrained)

    with monkeypatch.context() as patch:
        patch.setattr("mmft.build.pair.load_pair", noting)
        mmft.load(run.path)
    assert read == [True]
    model, before = mmft.load(run.path).model, begun(pair_folder("clip"))[0]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert {name.partition(".")[0] for name in moved} == {"text_encoder"}
    assert run.summary["parameters"]["image_encoder"]["trainable"] == 0


def test_rates_of_what_is_pretrained(pair_folder: Any) -> None:
    def rates(*typed: str) -> dict[str, float]:
        config = compose("train", [f"model.pair={pair_folder('clip')}", "task=contrastive", *typed]).config
        model = build.build_model(config.model, build.build_task(config.task).make_head, seed=0)
        return {group.name: group.lr for group in build.build_plan(config, model).groups}

    found = rates("optim.lr=1e-5", "optim.head_lr=2e-3")
    assert (found["fusion"], found["head/no_decay"], found["fusion/new/no_decay"]) == (1e-5, 1e-5, 2e-3)
    assert rates("tune.fusion_lr=3e-4")["fusion"] == 3e-4
    assert rates("tune=lora")["fusion"] == 5e-5


def test_the_temperature_is_the_pairs_unless_typed(pair_folder: Any) -> None:
    plain = hf.AutoModel.from_pretrained(pair_folder("siglip"))
    model, _ = begun(pair_folder("siglip"))
    assert float(model.head.log_scale) == float(plain.logit_scale)  # type: ignore[arg-type]
    assert float(model.head.bias) == float(plain.logit_bias)  # type: ignore[arg-type]
    model, _ = begun(pair_folder("siglip"), "task.temperature=0.5")
    assert float(model.head.log_scale) == pytest.approx(0.6931, abs=1e-4)  # type: ignore[arg-type]


def test_a_scale_above_the_limit_is_kept(pair_folder: Any, tmp_path: Path) -> None:
    """SO400M-SigLIP has 112."""
    plain = hf.AutoModel.from_pretrained(pair_folder("siglip"))
    plain.logit_scale.data.fill_(4.7215)
    plain.save_pretrained(tmp_path)
    for file in pair_folder("siglip").glob("*.json"):
        if file.name != "config.json":
            (tmp_path / file.name).write_text(file.read_text())
    model, _ = begun(tmp_path)
    model.train()
    model.head(torch.randn(2, 64))
    assert float(model.head.log_scale) == pytest.approx(4.7215)  # type: ignore[arg-type]


def test_a_broken_file_of_the_processor_is_named(pair_folder: Any, tmp_path: Path) -> None:
    shutil.copytree(pair_folder("clip"), tmp_path / "pair")
    (tmp_path / "pair" / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match=r"preprocessor_config\.json holds no JSON object"):
        begun(tmp_path / "pair")


def test_weights_of_another_shape_than_the_config_says_are_named(pair_folder: Any, tmp_path: Path) -> None:
    shutil.copytree(pair_folder("clip"), tmp_path / "pair")
    config = tmp_path / "pair" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "projection_dim": 20}))
    with pytest.raises(UserError, match=r"the shapes of 2 weights .* first text_projection.weight: 24 x 32"):
        begun(tmp_path / "pair")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["model.pair=./gone"], "model.pair: there is no folder"),
        (["model/fusion=pretrained"], "model.fusion: pretrained is part of a pretrained pair"),
        (["tune.fusion=freeze"], "tune.fusion: needs model/fusion=pretrained"),
        (["model.pair=PAIR", "model.text_encoder.name=x"], "model.text_encoder.name: model.pair names both"),
        (["model.pair=PAIR", "task=contrastive", "tune=freeze", "tune.fusion=freeze"], "freezes all that is left"),
        (["model.pair=PAIR", "tune.fusion=freeze", "tune.fusion_lr=1"], "tune.fusion_lr: changes nothing"),
    ],
)
def test_wrong_configs(typed: list[str], message: str, pair_folder: Any) -> None:
    with pytest.raises(UserError, match=message):
        compose("train", [word.replace("PAIR", str(pair_folder("clip"))) for word in typed])


def test_what_is_no_pair(pair_folder: Any, shapes: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its model_type bert is not that of a pair"):
        begun(shapes.text_encoder)
    config = json.loads((pair_folder("siglip") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "siglip2"}))
    with pytest.raises(UserError, match="NaFlex"):
        begun(tmp_path)


def test_two_encoders_of_one_pair_are_warned_of(
    pair_folder: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mmft"), "propagate", True)
    names = [f"model.{part}.name={pair_folder('clip')}" for part in ("image_encoder", "text_encoder")]
    build.build_model(compose("train", [*names, "model.text_encoder.max_length=null"]).config.model, 3, seed=0)
    assert "Type model.pair=" in caplog.text


def test_a_head_starts_as_the_zero_shot_classifier(
    pair_folder: Any, pair_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a run that hardly moves classifies as the pair without a run does."""
    templates = ["a {}", "the {} here"]
    still = ["optim.lr=1e-12", "optim.head_lr=1e-12", "trainer.max_steps=1", "modality_report=true"]
    typed = ["task=classification", "data.columns.label=label", "task.head_init=prompts", f"task.templates={templates}"]
    run = pair_run(pair_folder("clip"), *typed, *still)
    loaded = mmft.load(run.path)
    rows = [{"image": str(path)} for path in sorted(Path(loaded.saved.config.data.path).parent.rglob("*.png"))[:12]]
    expected = mmft.load_pair(pair_folder("clip")).zero_shot(loaded.labels, templates).predict(rows)
    given = [{**row, "text": "of no influence"} for row in rows]
    names = [f"score_{label}" for label in loaded.labels]
    for own, other in zip(loaded.predict(given), expected, strict=True):
        assert [own[n] for n in names] == pytest.approx([other[n] for n in names], abs=1e-5)
    before = run.summary["before"]["zero_shot/accuracy"]
    assert before == pytest.approx(run.summary["test"]["accuracy"], abs=1e-6)
    assert f"before training: test/zero_shot/accuracy {before:.4f}" in capsys.readouterr().err


@pytest.mark.slow
def test_retrieval_before_training_is_in_the_summary(pair_folder: Any, pair_run: Any) -> None:
    """Also if what is tuned changes at once what the pair computes."""
    still = ["optim.lr=1e-12", "tune.fusion_lr=1e-12", "optim.head_lr=1e-12", "trainer.max_steps=1"]
    still += ["modality_report=true", "data.columns.label=label"]
    run = pair_run(pair_folder("siglip"), *still)
    for name in ("mean_recall", "zero_shot/accuracy"):
        assert run.summary["before"][name] == pytest.approx(run.summary["test"][name], abs=1e-6)
    prompted = pair_run(pair_folder("siglip"), *still, "tune/image_encoder=prompt")
    assert prompted.summary["before"] == run.summary["before"]
    assert prompted.summary["test"] != run.summary["test"]


@pytest.mark.parametrize("task", mostly_slow(["contrastive", "classification"], "classification"))
def test_each_test_table_before_training(
    task: str, pair_folder: Any, pair_run: Any, shapes: Any, tmp_path: Path
) -> None:
    """A run that does not move ends where the pair was, on every named table."""
    rows = pd.read_csv(shapes.rows)
    rows["image"] = [str(shapes.rows.parent / image) for image in rows["image"]]
    for name in ("train", "val", "test"):
        rows[rows["split"] == name].to_csv(tmp_path / f"{name}.csv", index=False)
    rows[rows["split"] == "test"].head(20).to_csv(tmp_path / "few.csv", index=False)
    files = [f"data.{name}={tmp_path / name}.csv" for name in ("train", "val")]
    tables = f"data.test={{all:{tmp_path / 'test.csv'},few:{tmp_path / 'few.csv'}}}"
    typed = ["data.path=null", "data.columns.split=null", "data.columns.label=label", *files, tables, f"task={task}"]
    still = ["optim.lr=1e-12", "tune.fusion_lr=1e-12", "optim.head_lr=1e-12", "trainer.max_steps=1"]
    head = ["task.head_init=prompts"] * (task == "classification")
    run = pair_run(pair_folder("clip"), *typed, *still, *head, "modality_report=true")
    before, after = run.summary["tests_before"], run.summary["tests"]
    before_name, name = {
        "contrastive": ("mean_recall", "mean_recall"),
        "classification": ("zero_shot/accuracy", "accuracy"),
    }[task]
    assert run.summary["before"] == before["all"]
    logged = (run.path / "train.log").read_text().splitlines()
    at = next(place for place, line in enumerate(logged) if "accuracy before" in line or "mean_recall before" in line)
    lines = [line.split() for line in logged[at + 1 : at + 3]]
    for table, line in zip(("all", "few"), lines, strict=True):
        assert before[table][before_name] == pytest.approx(after[table][name], abs=1e-6)
        assert line[-5:-3] == [table, str(run.summary["rows"][f"test/{table}"])]
        assert float(line[-3]) == pytest.approx(before[table][before_name], abs=1e-4)
        assert line[-1] in ("+0.0000", "-0.0000")


def test_a_pair_without_a_run_on_named_tables(
    pair_folder: Any, shapes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["data.columns.image=image", "data.columns.text=text", "data.columns.label=label"]
    pair = [f"model.pair={pair_folder('clip')}", *columns]
    assert run_test(compose("test", [*pair, f"data.test={{one:{shapes.rows},two:[{shapes.rows}]}}"])) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if line.endswith(("rows 240", "rows 0"))] == [
        *("one/rows 240", "one/bad_rows 0", "two/rows 240", "two/bad_rows 0")
    ]


def test_prompts_need_a_pair() -> None:
    with pytest.raises(UserError, match=r"task\.head_init: prompts needs a pretrained pair"):
        compose("train", ["task.head_init=prompts"])


def test_the_same_command_resumes(pair_folder: Any, shapes: Any, tmp_path: Path) -> None:
    """What was left to the pair is in config.yaml, and no other experiment."""
    typed = on_pair(pair_folder("siglip"), shapes, "data.limit=48", "trainer.max_steps=2")
    assert train(compose("train", typed), tmp_path / "run") == 0
    more = [o for o in typed if not o.startswith("trainer.max_steps")]
    run = resumed([*more, "trainer.max_steps=4"], tmp_path / "run")
    assert (run.summary["optimizer_steps"], run.summary["resumed_from"]) == (4, [2])


OTHER_TASKS = {
    "matching": ["data.columns.label=null"],
    "multi_label": [],
    "question_answering": ["task.min_count=1"],
    "regression": ["data.columns.label=number"],
    "several": ["data.columns.label=[label,number]", "task.tasks={label:classification,number:regression}"],
}


def test_what_compares_image_and_text_needs_more_than_both_side_by_side(pair_folder: Any, shapes: Any) -> None:
    for task in ("matching", "question_answering"):
        typed = on_pair(pair_folder("clip"), shapes, f"task={task}", "data.columns.label=label")
        assert compose("train", typed).config.model.fusion.type == "concat"
    with pytest.raises(UserError, match=r"pretrained does not go with task=matching, .* Type model/fusion=concat"):
        compose("train", on_pair(pair_folder("clip"), shapes, "task=matching", "model/fusion=pretrained"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "fusion"),
    [(task, fusion) for task in OTHER_TASKS for fusion in ("cross", None if task == "matching" else "pretrained")],
)
def test_any_task_trains_on_a_pair(
    task: str, fusion: str | None, pair_folder: Any, pair_run: Any, shapes: Any, tmp_path: Path
) -> None:
    frame = pd.read_csv(shapes.rows)
    frame["number"] = range(len(frame))
    frame.to_csv(tmp_path / "numbers.csv", index=False)
    rows = [f"data.path={tmp_path / 'numbers.csv'}", f"data.root={shapes.rows.parent}", "data.columns.label=label"]
    typed = [f"task={task}", *([f"model/fusion={fusion}"] if fusion else []), *rows, *OTHER_TASKS[task]]
    run = pair_run(pair_folder("siglip"), *typed)
    given = [{"image": str(shapes.rows.parent / frame["image"][0]), "text": frame["text"][0]}]
    assert mmft.load(run.path).predict(given)[0]["error"] is None
