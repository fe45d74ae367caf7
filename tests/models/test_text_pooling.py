"""How texts are pooled: what sentence-transformers saved, the last token of causal models, any side of padding."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from make_shapes import captions
from runs import TrainRun
from tiny_tokenizers import make_tokenizer

import mmft
from mmft.errors import UserError
from mmft.models.encoder import pool_tokens
from mmft.models.text_encoder import build_text_encoder


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mmft"), "propagate", True)


def saved_by_sentence_transformers(folder: Path, *more: str, **pooling: Any) -> Path:
    """Writes what sentence-transformers adds to a folder: its modules, and how one of them pools."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *((f"{n}_{kind}", kind) for n, kind in enumerate(more, 2))]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def write_decoder(out: Path) -> Path:
    tokenizer = make_tokenizer("bert", captions())
    tokenizer.save_pretrained(out)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    hf.Qwen3ForCausalLM(
        hf.Qwen3Config(vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=16, **sizes)
    ).save_pretrained(out)
    return out


@pytest.fixture
def bert(text_encoder_folder: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(text_encoder_folder("bert"), tmp_path / "bert"))


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls_mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["cls", "mean"]}, "cls_mean"),
    ],
)
def test_auto_is_what_sentence_transformers_saved(pooling: dict[str, Any], pool: str, bert: Path) -> None:
    folder = saved_by_sentence_transformers(bert, "Normalize", word_embedding_dimension=32, **pooling)
    assert build_text_encoder(str(folder), 32, "auto", pretrained=True).pool == pool
    assert build_text_encoder(str(folder), 32, "mean", pretrained=True).pool == "mean"


@pytest.mark.parametrize(
    ("pooling", "said"),
    [
        ({"pooling_mode_max_tokens": True}, "by max"),
        ({"pooling_mode_weightedmean_tokens": True}, "by weightedmean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "by mean and max"),
        ({"pooling_mode": "median"}, "by median"),
        ({}, "by nothing"),
    ],
)
def test_poolings_that_mmft_lacks_are_told(
    pooling: dict[str, Any], said: str, bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved_by_sentence_transformers(bert, **pooling)
    assert build_text_encoder(str(folder), 32, "auto", pretrained=True).pool == "mean"
    assert said in caplog.text


def test_what_is_not_applied_is_told(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    folder = saved_by_sentence_transformers(bert, "Dense", "Normalize", pooling_mode_mean_tokens=True)
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": None})
    )
    build_text_encoder(str(folder), 32, "auto", pretrained=True)
    assert "Dense of sentence-transformers is not applied" in caplog.text
    assert "(query 'query: ')" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '[{"type": "x.Pooling"}]'])
def test_broken_modules_say_nothing(content: str, bert: Path) -> None:
    (bert / "modules.json").write_text(content)
    assert build_text_encoder(str(bert), 32, "auto", pretrained=True).pool == "mean"


@pytest.mark.parametrize("side", ["left", "right"])
def test_last_is_the_last_real_token(side: str) -> None:
    tokens = torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    last = torch.tensor([2, 4, 0])
    if side == "left":
        mask, last = mask.flip(1), torch.tensor([4, 4, 4])
    assert torch.equal(pool_tokens(tokens, mask, "last"), tokens[torch.arange(3), last])


def test_a_decoder_is_pooled_by_its_last_token(tmp_path: Path) -> None:
    folder = write_decoder(tmp_path)
    encoder = build_text_encoder(str(folder), 32, "auto", pretrained=True).eval()
    assert encoder.pool == "last"
    plain = hf.AutoModel.from_pretrained(folder).eval()
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        expected = plain(input_ids=ids, attention_mask=mask).last_hidden_state[[0, 1], [3, 1]]
        assert torch.allclose(encoder(ids, mask.bool()).pooled, expected, atol=1e-6)
    with pytest.raises(UserError, match=r"pool=cls: .* is causal.* Type model.text_encoder.pool=last"):
        build_text_encoder(str(folder), 32, "cls", pretrained=True)


def test_a_loaded_run_pools_as_it_was_trained(train_run: TrainRun, shapes: Any, tmp_path: Path) -> None:
    """Whatever the encoder's folder says by then; in runs of before there was no `text_pool`, and auto was the mean."""
    folder = Path(shutil.copytree(shapes.text_encoder, tmp_path / "encoder"))
    saved_by_sentence_transformers(folder, pooling_mode_cls_token=True)
    run = train_run(f"model.text_encoder.name={folder}", "tune/text_encoder=freeze", "trainer.max_epochs=1")
    assert mmft.load(run.path).model.text_encoder.pool == "cls"
    shutil.rmtree(folder / "1_Pooling")
    (folder / "modules.json").unlink()
    assert mmft.load(run.path).model.text_encoder.pool == "cls"
    file = run.path / "model" / "config.json"
    content = json.loads(file.read_text())
    del content["input"]["text_pool"]
    file.write_text(json.dumps(content))
    (file.parent / "checksums.json").unlink()
    assert mmft.load(run.path).model.text_encoder.pool == "mean"
