"""What mmft ships is what NOTICE and the docs say, loads without mmft, and is found wherever mmft is installed."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm
import transformers as hf
from distill.sources import LICENCES
from PIL import Image

from mmft.config.compose import compose
from mmft.config.paths import rebase
from mmft.errors import UserError
from mmft.files import SAMPLES, located
from mmft.models.loading.source import resolve


def test_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert located("mmft:clipart.parquet") == SAMPLES / "clipart.parquet"
    assert located("mmft:clipart.parquet", tmp_path) == SAMPLES / "clipart.parquet"
    assert located("rows.csv") == Path("rows.csv")
    assert located("rows.csv", tmp_path) == tmp_path / "rows.csv"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located("~/rows.csv") == tmp_path / "rows.csv"
    assert located("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_a_run_names_what_is_shipped_by_its_short_name(tmp_path: Path) -> None:
    config = compose("train", []).config
    assert (config.data.path, config.model.text_encoder.name) == ("mmft:clipart.parquet", "mmft:minilm-tiny")
    absolute = rebase(config, tmp_path)
    assert Path(absolute.data.path).is_file()
    assert resolve(absolute.model.image_encoder.name, "k").library == "timm"


def test_wrong_names_are_told() -> None:
    with pytest.raises(UserError) as refused:
        compose("train", ["data.path=mmft:clipatr.parquet", "model.image_encoder.name=mmft:vit", "data=clipart"])
    message = str(refused.value)
    assert "mmft:clipatr.parquet" in message
    assert "Did you mean clipart.parquet?" in message
    assert "there is no folder 'mmft:vit'" in message


class TestRows:
    rows = pq.read_table(SAMPLES / "clipart.parquet").to_pylist()

    def test_enough_of_them_and_of_every_category_in_every_split(self) -> None:
        assert len(self.rows) >= 1800
        assert (SAMPLES / "clipart.parquet").stat().st_size <= 10e6
        categories = {row["category"] for row in self.rows}
        assert len(categories) == 13
        for split in ("train", "val", "test"):
            assert {row["category"] for row in self.rows if row["split"] == split} == categories
        assert len({row["id"] for row in self.rows}) == len(self.rows)

    def test_no_group_is_in_two_splits(self) -> None:
        splits = Counter({(row["group"], row["split"]) for row in self.rows})
        assert len(splits) == len({row["group"] for row in self.rows})

    def test_images(self) -> None:
        for row in self.rows:
            with Image.open(io.BytesIO(row["image"])) as image:
                assert min(image.size) <= 96, row["id"]
                image.load()


class TestEncoders:
    def test_small_enough(self) -> None:
        files = [path for name in ("dinov2-tiny", "minilm-tiny") for path in (SAMPLES / name).iterdir()]
        assert sum(path.stat().st_size for path in files) <= 14e6

    def test_load_with_plain_timm_and_transformers(self) -> None:
        image = timm.create_model(f"local-dir:{SAMPLES / 'dinov2-tiny'}", pretrained=True)
        assert (image.num_features, image.patch_embed.img_size) == (192, (96, 96))
        text = hf.AutoModel.from_pretrained(SAMPLES / "minilm-tiny", add_pooling_layer=False)
        tokenizer = hf.AutoTokenizer.from_pretrained(SAMPLES / "minilm-tiny")
        assert text.config.vocab_size == len(tokenizer)
        tokens = tokenizer(["a red car", "Ein Haus"], padding=True, return_tensors="pt")
        assert text(**tokens).last_hidden_state.shape[-1] == 192

    def test_similar_words_are_near(self) -> None:
        text = hf.AutoModel.from_pretrained(SAMPLES / "minilm-tiny", add_pooling_layer=False).float().eval()
        tokenizer = hf.AutoTokenizer.from_pretrained(SAMPLES / "minilm-tiny")
        tokens = tokenizer(["dog", "puppy", "violin"], padding=True, return_tensors="pt")
        mask = tokens["attention_mask"].unsqueeze(-1)
        pooled = (text(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
        dog, puppy, violin = pooled / pooled.norm(dim=1, keepdim=True)
        assert dog @ puppy > dog @ violin + 0.2


def test_notice_names_every_source() -> None:
    words = " ".join((SAMPLES / "NOTICE").read_text(encoding="utf-8").split())
    for package, licence in LICENCES.items():
        assert re.split(r" \(", licence)[0].split(", ")[0] in words, package
    for name in ("clipart.parquet", "dinov2-tiny", "minilm-tiny", "DINOv2-small", "all-MiniLM-L6-v2"):
        assert name in words
