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
from pair.sources import COLOURED
from PIL import Image

import mmft
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


class TestPair:
    folder = SAMPLES / "pair-tiny"

    def test_small_enough_and_loads_with_plain_transformers(self) -> None:
        assert sum(path.stat().st_size for path in self.folder.iterdir()) <= 15e6
        assert type(hf.AutoModel.from_pretrained(self.folder)).__name__ == "VisionTextDualEncoderModel"
        assert hf.AutoTokenizer.from_pretrained(self.folder)(["a red car"])["input_ids"]

    def test_it_knows_drawings_that_it_was_not_shown(self) -> None:
        """The test rows of clipart.parquet, none of which it was shown; chance is 0.08 and 0.02."""
        pair = mmft.load_pair("mmft:pair-tiny", image="image", text="title")
        rows = [row for row in TestRows.rows if row["split"] == "test"]
        names = sorted({row["category"] for row in rows})
        found = pair.zero_shot(names).predict([{"image": row["image"]} for row in rows])
        known = [row["category"] for row in rows]
        right = Counter(one["prediction"] for name, one in zip(known, found, strict=True) if name == one["prediction"])
        every = Counter(known)
        assert sum(right[name] / every[name] for name in names) / len(names) > 0.1
        embedded = pair.embed([{"image": row["image"], "title": row["title"]} for row in rows])
        places = (embedded["text"] @ embedded["image"].T).argsort(1)[:, ::-1]
        assert sum(at in line[:10] for at, line in enumerate(places)) / len(rows) > 0.07


def test_notice_names_every_source() -> None:
    words = " ".join((SAMPLES / "NOTICE").read_text(encoding="utf-8").split())
    for package, licence in (LICENCES | COLOURED).items():
        assert re.split(r" \(", licence)[0].split(", ")[0] in words, package
    for name in ("clipart.parquet", "dinov2-tiny", "minilm-tiny", "pair-tiny", "DINOv2-small", "all-MiniLM-L6-v2"):
        assert name in words
