"""Pairs in open_clip's format: mmft computes what the package open_clip does, and the package loads what it exports."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers as hf
from make_shapes import captions
from mostly_slow import mostly_slow
from pretrained_pairs import begun, check_logits, images, logits, without_gradient
from runs import Run
from safetensors.torch import load_file, save_file
from tiny_open_clip import KINDS, TIMM_NAME, make_open_clip
from tiny_pairs import IMAGE_SIZE, MAX_LENGTH, PATCH_SIZE, WIDTH, make_pair
from torch import Tensor

import mmft
from mmft import build
from mmft.commands.export import export
from mmft.config.compose import compose
from mmft.errors import UserError
from mmft.models.loading.source import hub_repository
from mmft.models.pairs.open_clip_from_transformers import model_cfg

TEXTS = ["a disc", "A red_square, on a grey  background near the left border of the image!", "blue"]
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """`folder(kind)`: a tiny pair, made once."""
    root = tmp_path_factory.mktemp("open_clip")

    def made(kind: str) -> Path:
        return root / kind if (root / kind).exists() else make_open_clip(root / kind, captions(), kind)

    return made


@pytest.fixture
def changed(folder: Folder, tmp_path: Path) -> Callable[..., Path]:
    """`changed(kind, part, **values)`: a copy of a pair with other keys in `model_cfg`, or in a part of it."""

    def change(kind: str, part: str = "", **values: Any) -> Path:
        out = tmp_path / f"changed{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder(kind), out)
        file = out / "open_clip_config.json"
        config = json.loads(file.read_text())
        whole = config["preprocess_cfg"] if part == "preprocess_cfg" else config["model_cfg"]
        (whole.get(part, whole) if part else whole).update(values)
        file.write_text(json.dumps(config))
        return out

    return change


def of_open_clip(pair: Path, normalised: Tensor, texts: list[str]) -> Tensor:
    plain, _ = open_clip.create_model_from_pretrained(f"local-dir:{pair}")
    found: Tensor = plain.eval().get_logits(normalised, open_clip.get_tokenizer(f"local-dir:{pair}")(texts))[0]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_similarities_are_those_of_open_clip(kind: str, folder: Folder) -> None:
    """For three lengths of text, in a batch and alone."""
    model, config = begun(folder(kind))
    pixels = images(3)
    with torch.no_grad():
        expected = of_open_clip(folder(kind), model.image_encoder.normalise(pixels), TEXTS)
        assert float(expected.std()) > 1e-2
        check_logits(model, pixels, TEXTS, expected)
    assert config.data.resize == ("squash" if kind == "siglip" else "crop")
    assert config.task.loss == ("sigmoid" if kind == "siglip" else "info_nce")
    assert model.image_encoder.get_buffer("mean").flatten().tolist() == pytest.approx([122.4, 117.3, 104.55])


def test_its_own_padding_is_that_of_the_preprocessing(changed: Any) -> None:
    _, config = begun(changed("clip", "preprocess_cfg", resize_mode="longest", fill_color=16))
    assert (config.data.resize, config.data.background) == ("pad", "#101010")
    for colour in ("black", "white"):
        _, config = begun(config.model.pair, f"data.background={colour}")
        assert (config.data.resize, config.data.background) == ("pad", colour)


def exported(run: Run, written: str = "open_clip") -> Path:
    assert export(compose("export", [f"run={run.path}", f"format={written}"])) == 0
    return run.path / "export"


@pytest.mark.parametrize("kind", mostly_slow(KINDS, "clip"))
def test_an_export_is_the_whole_pair_again(kind: str, folder: Folder, pair_run: Any) -> None:
    run = pair_run(folder(kind), "tune=lora")
    out, pixels = exported(run), images(3)
    model, again = mmft.load(run.path).model.eval(), begun(out)[0]
    with torch.no_grad():
        expected = of_open_clip(out, model.image_encoder.normalise(pixels), TEXTS)
        assert torch.allclose(logits(model, pixels, TEXTS), expected, atol=1e-5)
        assert torch.allclose(logits(again, pixels, TEXTS), expected, atol=1e-5)
    before, after = (load_file(path / "open_clip_model.safetensors") for path in (folder(kind), out))
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("attn" in name or "attention" in name for name in moved)
    assert not any(
        "ln_" in name or "norm" in name or "embedding" in name for name in moved
    )  # LoRA trains linear layers
    assert "open_clip.create_model_from_pretrained" in (out / "README.md").read_text()


@pytest.mark.parametrize("kind", mostly_slow(["siglip", "bert"], "bert"))
def test_a_run_loads_without_the_pairs_folder(kind: str, folder: Folder, pair_run: Any, tmp_path: Path) -> None:
    pair = tmp_path / "moved"
    shutil.copytree(folder(kind), pair)
    run = pair_run(pair, "tune=full")
    expected = logits(mmft.load(run.path).model.eval(), images(3), TEXTS)
    shutil.rmtree(pair)
    assert torch.equal(logits(mmft.load(run.path).model.eval(), images(3), TEXTS), expected)


def test_a_frozen_encoder_is_found_again(folder: Folder, pair_run: Any) -> None:
    run = pair_run(folder("siglip"), "tune/image_encoder=freeze")
    saved, before = mmft.load(run.path).model, begun(folder("siglip"))[0]
    moved = {name for name, p in saved.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert {name.partition(".")[0] for name in moved} == {"text_encoder", "head"}


@pytest.mark.parametrize("kind", mostly_slow(["clip", "siglip", "metaclip_2"], "siglip"))
def test_pairs_of_transformers_become_open_clips(kind: str, pair_run: Any, tmp_path: Path) -> None:
    """And they can be fine-tuned and exported again from there."""
    pair = make_pair(tmp_path / "pair", captions(), kind=kind)
    run = pair_run(pair)
    out, pixels = exported(run), images(3)
    texts = [" ".join(text.split()) for text in TEXTS]  # open_clip does this before any tokenizer
    model, again = mmft.load(run.path).model.eval(), begun(out)[0]
    with torch.no_grad():
        expected = logits(model, pixels, texts)
        assert torch.allclose(of_open_clip(out, model.image_encoder.normalise(pixels), texts), expected, atol=1e-5)
        assert torch.allclose(logits(again, pixels, texts), expected, atol=1e-5)


@pytest.mark.parametrize("kind", mostly_slow(["clip", "roberta", "of transformers"], "clip"))
def test_an_export_cuts_texts_where_the_run_did(kind: str, folder: Folder, pair_folder: Any, pair_run: Any) -> None:
    pair = pair_folder("clip") if kind == "of transformers" else folder(kind)
    run = pair_run(pair, "model.text_encoder.max_length=12")
    out, pixels, texts = exported(run), images(2), ["red disc " * 20, "a blue cross"]
    model = mmft.load(run.path).model.eval()
    assert json.loads((out / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]["context_length"] == 12
    with torch.no_grad():
        expected = of_open_clip(out, model.image_encoder.normalise(pixels), texts)
        assert torch.allclose(logits(model, pixels, texts), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_an_export_for_another_image_size(kind: str, folder: Folder, pair_run: Any) -> None:
    """A run's larger images have more positions, which open_clip must not resample once more."""
    run = pair_run(folder(kind), "model.image_encoder.image_size=48")
    if kind == "siglip":
        with pytest.raises(
            UserError, match="image_size=48: open_clip builds vit_mmft_patch8_siglip_32 for its own size"
        ):
            exported(run)
        return
    out, pixels = exported(run), images(3, 48)
    model = mmft.load(run.path).model.eval()
    with torch.no_grad():
        expected = of_open_clip(out, model.image_encoder.normalise(pixels), TEXTS)
        assert torch.allclose(logits(model, pixels, TEXTS), expected, atol=1e-5)


@pytest.mark.slow
def test_its_image_encoder_alone_is_timms(folder: Folder, pair_run: Any) -> None:
    import timm

    run = pair_run(folder("siglip"), "tune=full")
    out, pixels = exported(run, "hf"), images(2)
    encoder = mmft.load(run.path).model.image_encoder.eval()
    plain = timm.create_model(f"local-dir:{out / 'image_encoder'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.allclose(plain(encoder.normalise(pixels)), encoder(pixels).pooled, atol=1e-5)


def test_what_open_clip_does_not_have(folder: Folder, pair_run: Any, tmp_path: Path) -> None:
    run = pair_run(make_pair(tmp_path / "pair", captions(), kind="chinese_clip"))
    with pytest.raises(UserError, match="is a chinese_clip. Type format=transformers"):
        exported(run)
    with pytest.raises(UserError, match="as transformers' CLIP, but .* has an image encoder of timm. Type"):
        exported(pair_run(folder("mlp")), "transformers")
    with pytest.raises(UserError, match="has the text encoder BertModel. Type format=open_clip"):
        exported(pair_run(folder("bert")), "sentence_transformers")


@pytest.mark.parametrize("kind", mostly_slow(["clip", "gelu", "eos"], "eos"))
def test_a_clip_becomes_one_of_transformers(kind: str, folder: Folder, pair_run: Any) -> None:
    run = pair_run(folder(kind), "tune=lora")
    out, pixels = exported(run, "transformers"), images(3)
    model, again = mmft.load(run.path).model.eval(), begun(out)[0]
    plain, processor = hf.AutoModel.from_pretrained(out).eval(), hf.AutoProcessor.from_pretrained(out)
    assert type(plain) is (hf.MetaClip2Model if kind == "eos" else hf.CLIPModel)
    given = processor(text=TEXTS, images=list(pixels), return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        assert torch.allclose(given["pixel_values"], model.image_encoder.normalise(pixels), atol=1e-4)
        given["pixel_values"] = model.image_encoder.normalise(pixels)
        expected = plain(**given).logits_per_image
        check_logits(model, pixels, TEXTS, expected)
        check_logits(again, pixels, TEXTS, expected)
    exported(run, "sentence_transformers")  # which compares embeddings itself


@pytest.mark.parametrize(
    ("part", "values", "named"),
    [
        ("", {"multimodal_cfg": {}}, "multimodal_cfg is that of a CoCa"),
        ("", {"other": 1}, "model_cfg.other=1"),
        ("", {"text_cfg": None}, "lacks model_cfg with embed_dim, vision_cfg and text_cfg"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, r"vision_cfg.layers=\[3, 4, 6, 3\] \(a ResNet\)"),
        ("vision_cfg", {"attentional_pool": True}, "vision_cfg.attentional_pool=True"),
        ("vision_cfg", {"pool_type": "avg"}, "vision_cfg.pool_type=avg"),
        ("vision_cfg", {"no_ln_pre": True}, "vision_cfg.no_ln_pre=True"),
        ("vision_cfg", {"image_size": [32, 64]}, r"vision_cfg.image_size=\[32, 64\]"),
        ("vision_cfg", {"timm_model_name": "resnet10t", "timm_pool": "rot_attn"}, "vision_cfg.timm_pool=rot_attn"),
        ("text_cfg", {"embed_cls": True}, "text_cfg.embed_cls=True"),
        ("text_cfg", {"pool_type": "last"}, "text_cfg.pool_type=last with no_causal_mask=false"),
        ("text_cfg", {"act_kwargs": {"approximate": "tanh"}}, "text_cfg.act_kwargs.approximate=tanh"),
        ("text_cfg", {"tokenizer_kwargs": {"strip_sep_token": True}}, "text_cfg.tokenizer_kwargs.strip_sep_token=True"),
        ("text_cfg", {"hf_model_name": "x", "hf_pooler_type": "max_pooler"}, "text_cfg.hf_pooler_type=max_pooler"),
        ("preprocess_cfg", {"resize_mode": "other"}, "preprocess_cfg.resize_mode=other"),
    ],
)
def test_what_would_be_computed_differently_is_refused(part: str, values: Any, named: str, changed: Any) -> None:
    with pytest.raises(UserError, match=named):
        begun(changed("clip", part, **values))


def test_weights_that_do_not_fit(changed: Any) -> None:
    pair = changed("clip")
    file = pair / "open_clip_model.safetensors"
    state = load_file(file)
    save_file({**state, "visual.other": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"has a weight that open_clip_config.json does not: 'visual.other'"):
        begun(pair)
    save_file({name: value for name, value in state.items() if name != "ln_final.bias"}, file)
    with pytest.raises(UserError, match="1 weights are not in its files, first text.final_layer_norm.bias"):
        begun(pair)
    save_file({**state, "ln_final.bias": torch.zeros(3)}, file)
    with pytest.raises(UserError, match=r"text.final_layer_norm.bias has the shape \(3,\), but .* says \(32,\)"):
        begun(pair)
    file.unlink()
    with pytest.raises(UserError, match="has no weights. Add open_clip_model.safetensors"):
        begun(pair)


def test_a_pickle_of_tensors_is_read_and_any_other_refused(changed: Any, folder: Folder) -> None:
    pair = changed("clip")
    state = load_file(pair / "open_clip_model.safetensors")
    (pair / "open_clip_model.safetensors").unlink()
    torch.save({f"module.{name}": value for name, value in state.items()}, pair / "open_clip_pytorch_model.bin")
    pixels = images(3)
    assert torch.equal(logits(begun(pair)[0], pixels, TEXTS), logits(begun(folder("clip"))[0], pixels, TEXTS))
    torch.save(captions, pair / "open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match="open_clip_pytorch_model.bin holds more than tensors"):
        begun(pair)


def _without_tokenizer(pair: Path) -> Path:
    for file in pair.iterdir():
        if not file.name.startswith("open_clip"):
            file.unlink()
    return pair


def test_a_missing_tokenizer(changed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="has no tokenizer.json. Copy the tokenizer's files of tiny into the folder"):
        begun(_without_tokenizer(changed("clip")))
    monkeypatch.setitem(sys.modules, "open_clip", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="openai/clip-vit-base-patch32 into the folder, or install open_clip_torch"):
        begun(_without_tokenizer(changed("clip", "text_cfg", hf_tokenizer_name=None)))


def test_the_vocabulary_inside_the_package(tmp_path: Path) -> None:
    """49,408 tokens: as the package's own tokenizer has them."""
    pair = make_open_clip(tmp_path / "pair", captions(), "clip", vocab_size=49408, hf_tokenizer_name=None)
    model, _ = begun(_without_tokenizer(pair))
    texts = [*TEXTS, "Über 3 naïve cats' #tags…", "word " * 99]
    ours = model.text_encoder.tokenizer(texts, truncation=True, padding="max_length", max_length=MAX_LENGTH)[
        "input_ids"
    ]
    theirs = open_clip.get_tokenizer(f"local-dir:{pair}")(texts)
    for own, other in zip(ours, theirs.tolist(), strict=True):
        end = own.index(49407) + 1
        assert own[:end] == other[:end]


def test_a_folder_of_both_formats_is_transformers(folder: Folder, tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "pair", captions())
    for file in folder("clip").glob("open_clip*"):
        shutil.copy2(file, pair / file.name)
    assert begun(pair)[0].image_encoder.source.library == "transformers"


def test_one_encoder_of_a_pair(changed: Any) -> None:
    pair = changed("clip")
    with pytest.raises(UserError, match=r"is a pair in open_clip's format. Type model\.pair="):
        compose("train", [f"model.image_encoder.name={pair}"])
    (pair / "config.json").write_text("{}")
    config = compose("train", [f"model.text_encoder.name={pair}"]).config
    with pytest.raises(UserError, match=r"is a pair in open_clip's format. Type model\.pair="):
        build.build_model(config.model, 3, seed=0)


def test_the_config_of_a_text_encoder_elsewhere(changed: Any) -> None:
    pair = changed("bert", "text_cfg", hf_model_name="no/such")
    begun(pair)
    (pair / "config.json").unlink()
    with pytest.raises(UserError, match=r"is no/such \(text_cfg.hf_model_name\), whose config.json the hub did not"):
        begun(pair)


def test_patch_dropout_is_told(changed: Any, caplog: pytest.LogCaptureFixture) -> None:
    begun(changed("clip", "vision_cfg", patch_dropout=0.5))
    assert "vision_cfg.patch_dropout=0.5 is not applied in training" in caplog.text


def test_a_pair_without_a_run(folder: Folder, shapes: Any) -> None:
    pair = mmft.load_pair(folder("siglip")).zero_shot(["disc", "square"], ["a {}"])
    rows = [{"image": str(path)} for path in sorted(shapes.rows.parent.rglob("*.png"))[:4]]
    assert {row["prediction"] for row in pair.predict(rows)} <= {"disc", "square"}


@pytest.mark.parametrize("fusion", ["pretrained", "concat", "cross"])
@pytest.mark.parametrize("kind", mostly_slow(["siglip", "mlp", "classifier", "roberta"], "siglip"))
def test_every_trained_parameter_gets_a_gradient(kind: str, fusion: str, folder: Folder) -> None:
    assert not without_gradient(folder(kind), fusion)


def test_hub_names_of_pairs_may_begin_as_timms_do() -> None:
    assert hub_repository("timm/ViT-B-16-SigLIP2", "model.pair") == "timm/ViT-B-16-SigLIP2"
    with pytest.raises(UserError, match="nor an architecture of timm"):
        hub_repository("timm/ViT-B-16-SigLIP2", "model.image_encoder.name")


def test_another_gelu_than_timms_is_told(caplog: pytest.LogCaptureFixture) -> None:
    sizes: Any = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vision = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    for gelu, told in (("gelu_pytorch_tanh", False), ("gelu", True)):
        config = hf.SiglipConfig(text_config=sizes, vision_config={**sizes, **vision, "hidden_act": gelu})
        whole = hf.SiglipModel(config)
        found = model_cfg(whole.vision_model, whole.text_model, WIDTH, IMAGE_SIZE, "model.pair=x")
        assert found["vision_cfg"]["timm_model_name"] == TIMM_NAME
        assert ("computes GELU by tanh, the pair exactly" in caplog.text) == told
    with pytest.raises(UserError, match="model.pair=x: timm, from which open_clip .* 40 pixels in patches of 8"):
        model_cfg(whole.vision_model, whole.text_model, WIDTH, 40, "model.pair=x")
