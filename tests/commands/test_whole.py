"""`model.whole` by the commands and in Python: train, predict, embed, resume, init, export, check."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from generative_rows import with_gaps
from make_shapes import Shapes
from mostly_slow import mostly_slow
from PIL import ExifTags, Image
from runs import QUICK, Run, killed_run, resumed, same_weights

import mmft
from mmft.commands.check import check
from mmft.commands.embed import embed
from mmft.commands.explain import explain
from mmft.commands.export import export
from mmft.commands.predict import predict
from mmft.commands.test import test as run_test
from mmft.commands.train import train
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.run.saved_model import load_model

Folder = Callable[[str], Path]
KINDS = ["idefics3", "qwen2_5_vl"]  # one with fixed images, one without a projector of its own


@pytest.fixture(scope="module")
def rows(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample; some training rows lack an image or a text."""
    path = tmp_path_factory.mktemp("whole") / "rows.csv"
    with_gaps(shapes).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def typed(shapes: Shapes, rows: Path) -> Callable[..., list[str]]:
    """`typed(folder, *more)`: overrides that train a whole model, LoRA on its language model."""

    def overrides(folder: Path, *more: str) -> list[str]:
        own = [one for one in shapes.overrides if not one.startswith("model.")]
        data = [f"data.path={rows}", f"data.root={shapes.rows.parent}", "task=generation", "task.max_answer_tokens=8"]
        model = [f"model.whole={folder}", "tune/image_encoder=freeze", "tune/text_encoder=lora", "optim.lr=null"]
        return [*own, *QUICK, *data, *model, *more]

    return overrides


@pytest.fixture(scope="module", params=KINDS)
def run(
    request: pytest.FixtureRequest, typed: Any, whole_folder: Folder, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    path = tmp_path_factory.mktemp("whole") / request.param
    assert train(compose("train", typed(whole_folder(request.param))), path) == 0
    return Run(path)


def test_the_run_folder(run: Run) -> None:
    assert set(run.summary["test"]) == {"loss", "exact_match", "token_f1", "perplexity"}
    assert run.summary["rows"]["bad"] == 0
    saved = {name.partition(".")[0] for name in run.model_state}
    has_projector = any(name.startswith("fusion.") for name in run.model_state)
    assert saved == {"text_encoder", "missing_image"} | ({"fusion"} if has_projector else set())
    assert all("lora" in name for name in run.model_state if name.startswith("text_encoder"))
    assert "which the language model reads as" in (run.path / "train.log").read_text()


def test_python_predicts_what_the_command_does(run: Run, rows: Path, shapes: Shapes, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    given = [f"run={run.path}", f"data.path={rows}", f"data.root={shapes.rows.parent}", f"out={out}"]
    assert predict(compose("predict", given)) == 0
    found = pd.read_csv(out, keep_default_na=False)
    frame = pd.read_csv(rows).head(6)
    listed = mmft.load(run.path).predict(
        [
            {name: None if pd.isna(row[name]) else row[name] for name in ("image", "text")}
            for row in frame.to_dict("records")
        ],
        root=shapes.rows.parent,
    )
    assert [row["prediction"] for row in listed] == found["prediction"].head(6).tolist()
    assert [row["score"] for row in listed] == pytest.approx(found["score"].head(6).astype(float).tolist(), abs=1e-5)
    assert run_test(compose("test", [f"run={run.path}"])) == 0


def test_embeddings(run: Run, rows: Path, shapes: Shapes, tmp_path: Path) -> None:
    given = [f"run={run.path}", f"data.path={rows}", f"data.root={shapes.rows.parent}", f"out={tmp_path / 'e.npz'}"]
    assert embed(compose("embed", given)) == 0
    found = np.load(tmp_path / "e.npz")["fused"]
    assert found.shape == (len(pd.read_csv(rows)), 32)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_bit_for_bit(kind: str, typed: Any, whole_folder: Folder, tmp_path: Path) -> None:
    every = typed(whole_folder(kind), "checkpoint.every_steps=1")
    assert train(compose("train", every), tmp_path / "run") == 0
    killed_run(every, tmp_path / "killed", 3, "after")
    again = resumed(every, tmp_path / "killed")
    assert again.summary["resumed_from"] == [3]
    assert same_weights(again, Run(tmp_path / "run"))


def exported(run: Path, folder: Path) -> tuple[Any, Any]:
    """What plain transformers loads of an export."""
    assert export(compose("export", [f"run={run}", f"out={folder}"])) == 0
    model = hf.AutoModelForImageTextToText.from_pretrained(folder).eval()
    return model, hf.AutoProcessor.from_pretrained(folder)


def test_plain_transformers_loads_the_export(run: Run, tmp_path: Path) -> None:
    plain, processor = exported(run.path, tmp_path / "export")
    assert type(plain).__name__ in (tmp_path / "export" / "README.md").read_text()
    model = mmft.load(run.path)
    side = model.saved.model.image_encoder.image_size
    images = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = ["red", "drawn in blue ink", "is it green?", "it"]
    listed = model.predict([{"image": image, "text": text} for image, text in zip(images, texts, strict=True)])
    for image, question, found in zip(images, texts, listed, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=[text], images=[image.permute(1, 2, 0).numpy()], return_tensors="pt")
        end = model.saved.model.text_encoder.tokenizer.eos_token_id
        ending = {"eos_token_id": end, "do_sample": False, "pad_token_id": 1}
        tokens = plain.generate(**inputs, max_new_tokens=8, **ending)[0, inputs["input_ids"].shape[1] :]
        assert processor.tokenizer.decode(tokens, skip_special_tokens=True).strip() == found["prediction"]


@pytest.mark.parametrize("name", ["long.jpg", "square.png"])
@pytest.mark.parametrize(
    "kind", mostly_slow(["qwen2_5_vl", "idefics3", "blip_2", "gemma3", "llava_next", "internvl"], "qwen2_5_vl")
)
def test_the_exports_own_lines_write_what_the_run_predicts(
    kind: str,
    name: str,
    typed: Any,
    whole_folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of an image of any shape, turned or half transparent: README.md has all that plain transformers must be told."""
    beams = ["task.num_beams=2", "task.max_new_tokens=5"] if name == "long.jpg" else []
    every = typed(whole_folder(kind), "trainer.max_epochs=1", *beams)
    run = Run(tmp_path / "run")
    assert train(compose("train", every), run.path) == 0
    exported(run.path, tmp_path / "export")
    noise = np.random.default_rng(1).integers(0, 256, (150, 400 if name == "long.jpg" else 150, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.getexif()[ExifTags.Base.Orientation] = 6
    if name == "square.png":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "export" / name, exif=image.getexif())
    (block,) = re.findall(r"```python\n(.*?)```", (tmp_path / "export" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path / "export")
    capsys.readouterr()
    exec(block.replace("image.png", name), {})
    (found,) = mmft.load(run.path).predict([{"image": name, "text": "What is this?"}], root=tmp_path / "export")
    assert capsys.readouterr().out.strip() == found["prediction"]
    assert found["prediction"]


@pytest.mark.parametrize("kind", mostly_slow(KINDS, "idefics3"))
def test_adapters_are_for_peft(kind: str, typed: Any, whole_folder: Folder, tmp_path: Path) -> None:
    """On the base, those of both encoders together make the model that was trained."""
    from peft import PeftModel

    adapted = ["tune/image_encoder=lora", "tune.fusion=freeze", "tune.text_encoder.biases=true"]
    assert train(compose("train", typed(whole_folder(kind), *adapted)), tmp_path / "run") == 0
    plain, _ = exported(tmp_path / "run", tmp_path / "export")
    model: Any = hf.AutoModelForImageTextToText.from_pretrained(whole_folder(kind))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for encoder in ("image_encoder", "text_encoder"):
        model = PeftModel.from_pretrained(model, tmp_path / "export" / "adapters" / encoder).merge_and_unload()
    found, expected = model.state_dict(), plain.state_dict()
    assert found.keys() == expected.keys()
    apart = {name for name in found if not torch.allclose(found[name], expected[name], atol=1e-6)}
    assert all(name.endswith(".bias") for name in apart)
    card = (tmp_path / "export" / "README.md").read_text()
    assert ("They do not have what else the run trained: text_encoder." in card) == bool(apart)
    changed = {name.split(".")[-3] for name in start if not torch.equal(start[name], found[name])}
    assert {"q_proj", "self_attn"} & changed or "attn" in changed
    assert any("vis" in name for name in start if not torch.equal(start[name], found[name]))


def test_only_transformers_has_a_place_for_it(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="format=open_clip has no place for model.whole"):
        export(compose("export", [f"run={run.path}", f"out={tmp_path / 'export'}", "format=open_clip"]))


def test_from_one_run_to_the_next(typed: Any, whole_folder: Folder, tmp_path: Path) -> None:
    """The projector alone, then all from there; the merged LoRA goes on as full fine-tuning."""
    start = typed(whole_folder("idefics3"), "trainer.max_epochs=1")
    alone = "tune/text_encoder=freeze"
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(compose("train", [*start, alone, "optim.lr=1e-3"]), first) == 0
    still = ["tune/text_encoder=full", "tune/image_encoder=full", "optim.lr=1e-9", f"init={first}"]
    assert train(compose("train", [*start, *still]), second) == 0
    one, two = (load_model(path / "model") for path in (first, second))
    assert {name.partition(".")[0] for name in one.trained} == {"fusion", "missing_image"}
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], value, atol=1e-6, rtol=0)
    plain, processor = exported(second, tmp_path / "export")
    assert processor.chat_template
    assert plain.model.text_model is not None


def test_the_projector_can_be_frozen(typed: Any, whole_folder: Folder) -> None:
    from mmft import build

    config = compose("train", typed(whole_folder("llava"), "tune.fusion=freeze", "tune/image_encoder=full")).config
    model = build.build_model(config.model, 2, seed=0)
    plan = build.build_plan(config, model)
    assert plan.trained["fusion"] == 32  # the stand-in for a missing image
    last = {name for name in plan.names if "encoder.layers.2" in name or "post_layernorm" in name}
    assert not last  # LLaVA reads the layer before
    assert any("encoder.layers.1" in name for name in plan.names)


@pytest.mark.parametrize(
    ("kind", "more", "told"),
    [
        ("llava", "tune.fusion=freeze", "tune.fusion=full trains what is between"),
        ("qwen2_5_vl", "tune.fusion=full", "tune.image_encoder.pattern=merger"),
    ],
)
def test_nothing_but_what_stands_for_a_missing_image_is_no_training(
    kind: str, more: str, told: str, typed: Any, whole_folder: Folder
) -> None:
    from mmft import build

    config = compose("train", typed(whole_folder(kind), "tune/text_encoder=freeze", more)).config
    model = build.build_model(config.model, 2, seed=0)
    with pytest.raises(UserError, match=re.escape(told)):
        build.build_plan(config, model)


def test_which_layer_the_model_reads_is_part_of_an_entrys_name(
    typed: Any, whole_folder: Folder, tmp_path: Path
) -> None:
    from mmft import build
    from mmft.cache.identity import identity
    from mmft.models.frozen_part import FrozenPart

    names = set()
    for layer in (-1, -2):
        folder = tmp_path / str(layer)
        shutil.copytree(whole_folder("llava"), folder)
        kept = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(kept | {"vision_feature_layer": layer}))
        encoder = build.build_model(compose("train", typed(folder)).config.model, 2, seed=0).image_encoder
        names.add(identity(FrozenPart(encoder, None, "tokens", exact=True), "32-true", {"side": 32})[0])
    assert len(names) == 2


def test_check(typed: Any, whole_folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(compose("check", typed(whole_folder("smolvlm"), "task.prompt='{text} here'"))) == 0
    shown = capsys.readouterr().out
    assert "Training would work." in shown
    prompt = r"<fake_token_around_image><global-img>\[4 image tokens\]<fake_token_around_image>.* here<\|im_end\|>"
    assert re.search(prompt, shown)


def test_check_of_what_cannot_be_built(
    typed: Any, whole_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows are checked as far as they can be without the model."""
    for file in whole_folder("llava").iterdir():
        if file.name != "processor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(
        UserError, match=r"model\.whole=.*: transformers cannot load its processor|its processor"
    ) as told:
        check(compose("check", typed(tmp_path)))
    assert len(told.value.messages) == 1
    assert "rows" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"task\.packing=true: \w+ .*does not keep rows apart"):
        check(compose("check", typed(whole_folder("gemma3"), "task.packing=true")))


def test_the_image_can_stand_elsewhere(typed: Any, whole_folder: Folder, tmp_path: Path) -> None:
    """Quantised, gradient checkpointing, a fixed prompt, an image encoder from random weights."""
    own = ["data.columns.text=null", "task.prompt='what is {image}'", "trainer.max_epochs=1"]
    own += ["tune/text_encoder=lora_8bit", "tune/image_encoder=full", "model.image_encoder.pretrained=false"]
    every = typed(whole_folder("qwen2_5_vl"), *own, "trainer.gradient_checkpointing=true")
    assert train(compose("train", every), tmp_path / "run") == 0
    (found,) = mmft.load(tmp_path / "run").predict([{"image": torch.zeros(3, 32, 32, dtype=torch.uint8)}])
    assert found["error"] is None


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["task=classification"], "model.whole: writes texts, which task=classification does not learn"),
        (["model/fusion=projector"], "model.whole: has its own projector, in place of model/fusion=projector"),
        (["model.pair=a/b"], "model.whole: does not go with model.pair"),
        (["model.text_encoder.name=a/b"], "model.text_encoder.name: model.whole names both encoders"),
        (["model.whole=/nowhere"], "model.whole: there is no folder '/nowhere'"),
        (["model.whole=null", "model/fusion=whole"], "model.fusion: whole is part of a whole model"),
    ],
)
def test_what_makes_no_sense_is_refused(more: list[str], expected: str, typed: Any, whole_folder: Folder) -> None:
    keys = {one.partition("=")[0] for one in more}
    own = [one for one in typed(whole_folder("llava")) if one.partition("=")[0] not in keys]
    own = [one for one in own if not one.startswith("task.")] if "task" in keys else own
    with pytest.raises(UserError) as error:
        compose("train", [*own, *more])
    assert any(expected in message for message in error.value.messages), error.value.messages


def test_other_ways_to_write(run: Run, rows: Path, shapes: Shapes) -> None:
    model = mmft.load(run.path)
    frame = pd.read_csv(rows).dropna(subset=["image", "text"]).head(3)
    given = [{"image": str(shapes.rows.parent / row.image), "text": row.text} for row in frame.itertuples()]
    plain = model.predict(given)
    for row, found in zip(given, plain, strict=True):
        turns = [{"role": "user", "content": row["text"]}]
        assert "".join(model.chat(turns, image=row["image"], stream=True)) == found["prediction"]
    several = [*turns, {"role": "assistant", "content": "a"}, *turns]
    assert isinstance(model.chat(several, image=given[-1]["image"]), str)
    beams = model.decoding(num_beams=3).predict(given)
    assert all(np.isfinite(row["score"]) for row in beams)
    one = [model.decoding(num_beams=3).predict([row])[0]["prediction"] for row in given]
    assert [row["prediction"] for row in beams] == one
    sampled = model.decoding(temperature=1.0, max_new_tokens=4)
    assert [row["prediction"] for row in sampled.predict(given)[:2]] == [
        row["prediction"] for row in sampled.predict(given[:2])
    ]
    of_digits = model.decoding(pattern="[ab]{2}", max_new_tokens=8).predict(given)
    assert all(re.fullmatch("[ab]{1,2}", row["prediction"]) for row in of_digits)


def test_an_answer_is_explained_by_image_and_words(run: Run, rows: Path, shapes: Shapes, tmp_path: Path) -> None:
    frame = pd.read_csv(rows).dropna(subset=["image", "text"]).tail(1)
    given = {"image": frame["image"].item(), "text": frame["text"].item()}
    (named,) = mmft.load(run.path).explain([given], root=shapes.rows.parent, label="blue disc")
    found = named.numbers()
    assert named.name == "blue disc"
    assert [word["text"] for word in found["words"]] == given["text"].split()
    parts = found["image"] + sum(word["weight"] for word in found["words"])
    assert found["value"] - found["baseline"] - found["missed"] == pytest.approx(parts, abs=1e-6)
    assert any(word["weight"] for word in found["words"])
    given = [f"run={run.path}", f"data.path={rows}", f"data.root={shapes.rows.parent}", f"out={tmp_path / 'out'}"]
    assert explain(compose("explain", [*given, f"rows=[{frame.index[0]}]"])) == 0
    of_label = json.loads((tmp_path / "out" / f"row{frame.index[0]}.json").read_text())
    assert of_label["explained"] == frame["label"].item()
    assert of_label["image"]
    assert (tmp_path / "out" / f"row{frame.index[0]}.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_a_list(kind: str, typed: Any, whole_folder: Folder, tmp_path: Path) -> None:
    """Metrics and columns of classification, with packed rows in training."""
    every = typed(whole_folder(kind), "task.choices=labels", "task.packing=true")
    assert train(compose("train", every), tmp_path) == 0
    found = Run(tmp_path)
    assert {"accuracy", "f1_macro", "perplexity", "exact_match"} <= set(found.summary["test"])
    assert (tmp_path / "confusion_matrix.csv").is_file()
    model = mmft.load(tmp_path)
    assert model.saved.model.text_encoder.packs
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    (answer,) = model.predict([{"image": image, "text": "red"}])
    names = [name for name in answer if name.startswith("score_")]
    assert sum(answer[name] for name in names) == pytest.approx(1, abs=1e-5)
    assert answer["score"] == max(answer[name] for name in names) == answer[f"score_{answer['prediction']}"]
    of_run = model.decoding(choices=None, max_new_tokens=4)  # which choices need not take back
    two = of_run.decoding(choices=["red disc", "blue disc"]).predict([{"image": image, "text": "red"}])[0]
    kept = ["score_red disc", "score_blue disc"]
    assert two[kept[0]] == pytest.approx(answer[kept[0]] / sum(answer[name] for name in kept), abs=1e-5)


@pytest.mark.slow
def test_packing_changes_no_step(typed: Any, whole_folder: Folder, tmp_path: Path) -> None:
    every = typed(whole_folder("qwen2_5_vl"), "optim.clip_norm=null", "optim=sgd", "optim.lr=1e-2")
    for name in ("padded", "packed"):
        more = [f"task.packing={name == 'packed'}"]
        assert train(compose("train", [*every, *more]), tmp_path / name) == 0
    padded, packed = (Run(tmp_path / name) for name in ("padded", "packed"))
    assert packed.summary["test"]["loss"] == pytest.approx(padded.summary["test"]["loss"], rel=1e-5)
    for name, value in padded.model_state.items():
        torch.testing.assert_close(packed.model_state[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["smolvlm", "paligemma"])
def test_conversations(kind: str, typed: Any, whole_folder: Folder, rows: Path, shapes: Shapes, tmp_path: Path) -> None:
    """Every turn of the assistant is learned, a question at the end is answered, by `chat`, too, and explained."""
    frame = pd.read_csv(rows).dropna(subset=["image", "text"]).groupby("split").head(12).reset_index(drop=True)
    told = [[("user", f"is it {t}"), ("assistant", "yes"), ("user", "what is it")] for t in frame["text"]]
    asked = [[{"role": role, "content": text} for role, text in turns] for turns in told]
    answers = [{"role": "assistant", "content": label} for label in frame["label"]]
    frame["messages"] = [[*turns, answer] for turns, answer in zip(asked, answers, strict=True)]
    frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    columns = ["data.columns.text=null", "data.columns.label=null", "data.columns.messages=messages"]
    own = [one for one in typed(whole_folder(kind)) if not one.startswith(("data.path", "data.columns."))]
    every = [*own, *columns, "data.columns.image=image", "data.columns.split=split", "task.packing=true"]
    assert train(compose("train", [*every, f"data.path={tmp_path / 'rows.jsonl'}"]), tmp_path / "run") == 0
    found = Run(tmp_path / "run")
    assert found.summary["rows"]["bad"] == 0
    assert found.summary["test"]["perplexity"] > 0
    model, image = mmft.load(tmp_path / "run"), frame["image"][0]
    given = [{"image": image, "messages": asked[0]}]
    (answer,) = model.predict(given, root=shapes.rows.parent)
    assert model.chat(asked[0], image=str(shapes.rows.parent / image)) == answer["prediction"]
    (why,) = model.explain(given, root=shapes.rows.parent, label="red disc")
    assert why.numbers()["image"]
    assert any(word["weight"] for word in why.numbers()["words"])
    scored = model.decoding(choices=["red disc", "blue disc"]).predict(given, root=shapes.rows.parent)[0]
    assert scored["score_red disc"] + scored["score_blue disc"] == pytest.approx(1, abs=1e-5)
