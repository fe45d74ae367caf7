"""Tokenizers that are missing, of another encoder, or only a SentencePiece file; texts that a tokenizer cannot read."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers as hf
from command import Mmft
from make_shapes import captions
from tiny_tokenizers import make_tokenizer

from mmft.data.text import check_readable, tokenize
from mmft.errors import UserError
from mmft.models.text_encoder import TextEncoder, build_text_encoder

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}


def build(folder: Path) -> TextEncoder:
    return build_text_encoder(str(folder), 32, "auto", pretrained=True)


def without_tokenizer(folder: Path, out: Path) -> Path:
    return Path(shutil.copytree(folder, out, ignore=shutil.ignore_patterns(*TOKENIZER_FILES, "vocab.json", "merges.*")))


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta_v2", "modernbert", "clip"])
def test_no_tokenizer_is_refused(kind: str, text_encoder_folder: Any, tmp_path: Path) -> None:
    folder = without_tokenizer(text_encoder_folder(kind), tmp_path / "folder")
    with pytest.raises(UserError, match=r"model.text_encoder.name=.*tokenizer.*Copy the tokenizer's files"):
        build(folder)


def test_half_a_tokenizer_is_refused(text_encoder_folder: Any, tmp_path: Path) -> None:
    folder = without_tokenizer(text_encoder_folder("roberta"), tmp_path / "folder")
    vocab = make_tokenizer("roberta", captions()).get_vocab()
    (folder / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(UserError, match=r"cannot load a tokenizer from its folder: .*Copy the tokenizer's files"):
        build(folder)


def test_a_vocabulary_beyond_the_embedding_is_refused(text_encoder_folder: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(text_encoder_folder("bert"), tmp_path / "folder"))
    tokens = len(hf.AutoTokenizer.from_pretrained(folder))
    larger = make_tokenizer("bert", [*captions(), "some other words that are new here"])
    larger.save_pretrained(folder)
    with pytest.raises(UserError, match=rf"its tokenizer has {len(larger)} tokens, but its embedding only {tokens},"):
        build(folder)


def test_a_small_vocabulary_is_told(
    text_encoder_folder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mmft"), "propagate", True)
    folder = Path(shutil.copytree(text_encoder_folder("bert"), tmp_path / "folder"))
    build(folder)
    assert not caplog.messages
    model = hf.AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(1000)
    model.save_pretrained(folder)
    build(folder)
    assert "but its embedding 1,000: is it this encoder's?" in caplog.text


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["日本語 의 текст", "καλημέρα κόσμε"], "100% of their tokens are unknown"),
        (["a red square", "日本語 кот", None], "unknown to the tokenizer"),
        (["a red square", "a blue disc"], ""),
        ([None, None], ""),
    ],
)
def test_share_of_unknown_tokens(
    texts: list[str | None], said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mmft"), "propagate", True)
    tokenizer = make_tokenizer("bert", captions())
    tokens = tokenize(texts, tokenizer, 32)
    if "100%" in said:
        with pytest.raises(UserError, match=said):
            check_readable(tokens, tokenizer)
        return
    check_readable(tokens, tokenizer)
    assert said in caplog.text if said else not caplog.messages


def _write_sentencepiece(file: Path, **options: Any) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions()),
        model_writer=model,
        vocab_size=90,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    file.write_bytes(model.getvalue())


def _write_marian(folder: Path) -> None:
    """Marian has a SentencePiece file for either language, and numbers their pieces in a third file."""
    for language in ("source", "target"):
        _write_sentencepiece(folder / f"{language}.spm")
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "source.spm"))
    names = [*(pieces.id_to_piece(number) for number in range(pieces.get_piece_size())), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))


_SENTENCE_T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
_BRACKETS = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
SENTENCEPIECE: dict[str, tuple[Callable[[], Any], Callable[[Path], None]]] = {
    "deberta_v3": (
        lambda: hf.DebertaV2Model(hf.DebertaV2Config(vocab_size=200, **_BLOCKS)),
        lambda f: _write_sentencepiece(f / "spm.model", pad_id=0, bos_id=1, eos_id=2, unk_id=3, **_BRACKETS),
    ),
    "xlm_roberta": (
        lambda: hf.XLMRobertaModel(hf.XLMRobertaConfig(vocab_size=200, **_BLOCKS)),
        lambda f: _write_sentencepiece(f / "sentencepiece.bpe.model"),
    ),
    "albert": (
        lambda: hf.AlbertModel(hf.AlbertConfig(vocab_size=200, embedding_size=16, **_BLOCKS)),
        lambda f: _write_sentencepiece(
            f / "spiece.model", pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]", "[MASK]"]
        ),
    ),
    "xlnet": (
        lambda: hf.XLNetModel(hf.XLNetConfig(vocab_size=200, d_model=32, n_layer=2, n_head=2, d_inner=64)),
        lambda f: _write_sentencepiece(f / "spiece.model", control_symbols=["<sep>", "<pad>", "<cls>"]),
    ),
    "t5": (
        lambda: hf.T5Model(hf.T5Config(vocab_size=200, **_T5)),
        lambda f: _write_sentencepiece(f / "spiece.model", **_SENTENCE_T5),
    ),
    "mt5": (
        lambda: hf.MT5Model(hf.MT5Config(vocab_size=200, **_T5)),
        lambda f: _write_sentencepiece(f / "spiece.model", **_SENTENCE_T5),
    ),
    "umt5": (
        lambda: hf.UMT5Model(hf.UMT5Config(vocab_size=200, **_T5)),
        lambda f: _write_sentencepiece(f / "spiece.model", **_SENTENCE_T5),
    ),
    "mbart": (
        lambda: hf.MBartModel(hf.MBartConfig(vocab_size=200, **_BART)),
        lambda f: _write_sentencepiece(f / "sentencepiece.bpe.model"),
    ),
    "marian": (
        lambda: hf.MarianModel(hf.MarianConfig(vocab_size=200, pad_token_id=1, decoder_start_token_id=1, **_BART)),
        _write_marian,
    ),
}


@pytest.mark.parametrize("kind", SENTENCEPIECE)
def test_a_sentencepiece_file_is_enough(kind: str, tmp_path: Path) -> None:
    model, write = SENTENCEPIECE[kind]
    model().save_pretrained(tmp_path)
    write(tmp_path)
    encoder = build(tmp_path)
    texts = [text for text in captions()[:8] if text]
    tokens = tokenize(texts, encoder.tokenizer, 6)
    assert tokens.cut == 8
    check_readable(tokens, encoder.tokenizer)
    read = encoder.tokenizer.decode(tokenize(texts[:1], encoder.tokenizer, 99).of(0), skip_special_tokens=True)
    assert texts[0].replace(" ", "") in read.replace(" ", "")
    ids = torch.tensor(tokens.ids[:12].reshape(2, 6), dtype=torch.long)
    assert encoder(ids, torch.ones_like(ids, dtype=torch.bool)).pooled.shape == (2, 32)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "train"])
def test_commands_agree(
    command: str, forked_mmft: Mmft, shapes: Any, shapes_overrides: list[str], tmp_path: Path
) -> None:
    folder = without_tokenizer(shapes.text_encoder, tmp_path / "none")
    done = forked_mmft(command, *shapes_overrides, f"model.text_encoder.name={folder}", check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "lacks the files of its tokenizer" in done.stderr
    strange = Path(shutil.copytree(shapes.text_encoder, tmp_path / "strange"))
    rules = json.loads((strange / "tokenizer.json").read_text())
    known = rules["model"]["vocab"].items()
    rules["model"]["vocab"] = {name if name.startswith("[") else f"[{name}]": number for name, number in known}
    (strange / "tokenizer.json").write_text(json.dumps(rules))
    done = forked_mmft(command, *shapes_overrides, f"model.text_encoder.name={strange}", check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "100% of their tokens are unknown to it" in done.stderr
