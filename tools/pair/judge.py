"""Measures a pair, as plain transformers loads it, on what it has not learnt from: clip art and emoji.

    python tools/pair/judge.py FOLDER --clipart ../shared/data/clipart --emoji OUT/emoji.parquet

Zero-shot accuracy: the class whose name, in templates, is nearest to the image; balanced: the mean over classes. Recall
at 10: how often an image's title is among the ten nearest texts, and a title's image among the ten nearest images, over
rows with distinct titles.
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
import transformers as hf
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from distill.held_out import read_clipart

TEMPLATES = ("{}", "a drawing of {}", "an icon of {}", "a picture of {}", "{} in a drawing")
BATCH = 64
K = 10


@dataclass(frozen=True)
class Judged:
    """Rows to judge on."""

    images: list[bytes]
    titles: list[str]
    labels: list[str]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pair", type=Path)
    parser.add_argument("--clipart", type=Path, help="folder of the clip-art rows")
    parser.add_argument("--split", choices=["val", "test"], default="test", help="of the clip-art rows")
    parser.add_argument("--emoji", type=Path, help="the table that rows.py wrote")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pair = Pair(given.pair)
    if given.clipart:
        rows = [row for row in read_clipart(given.clipart.parents[1]) if row.split == given.split]
        images = [row.image.read_bytes() for row in rows]
        print("clip art", described(pair, Judged(images, [r.title for r in rows], [r.label for r in rows])))
    if given.emoji:
        table = pq.read_table(given.emoji)
        for name in sorted(set(table["set"].to_pylist())):
            held = [row for row in table.to_pylist() if row["set"] == name]
            columns = ([row[key] for row in held] for key in ("image", "title", "label"))
            print(name, described(pair, Judged(*columns)))


class Pair:
    """A folder of VisionTextDualEncoderModel with its tokenizer and image processor."""

    def __init__(self, folder: Path) -> None:
        self._model = hf.VisionTextDualEncoderModel.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = hf.AutoTokenizer.from_pretrained(folder)
        self._processor = hf.AutoImageProcessor.from_pretrained(folder)

    @torch.inference_mode()
    def images(self, images: list[bytes]) -> Tensor:
        """(N, D), of length 1."""
        out = []
        for begin in range(0, len(images), BATCH):
            opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in images[begin : begin + BATCH]]
            pixels = self._processor(opened, return_tensors="pt")["pixel_values"]
            out.append(_tensor(self._model.get_image_features(pixel_values=pixels)))
        return F.normalize(torch.cat(out), dim=-1)

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Tensor:
        """(N, D), of length 1."""
        out = []
        for begin in range(0, len(texts), BATCH):
            batch = texts[begin : begin + BATCH]
            tokens = self._tokenizer(batch, padding=True, truncation=True, max_length=32, return_tensors="pt")
            out.append(_tensor(self._model.get_text_features(**tokens)))
        return F.normalize(torch.cat(out), dim=-1)


def _tensor(features: object) -> Tensor:
    """The features themselves: older versions of transformers give a tensor."""
    return features if isinstance(features, Tensor) else features.pooler_output  # type: ignore[attr-defined]


def described(pair: Pair, rows: Judged) -> str:
    """One line with both figures."""
    images = pair.images(rows.images)
    classes = sorted(set(rows.labels))
    prompts = [template.format(name.replace("_", " ")) for name in classes for template in TEMPLATES]
    anchors = F.normalize(pair.texts(prompts).unflatten(0, (len(classes), -1)).mean(1), dim=-1)
    target = torch.tensor([classes.index(label) for label in rows.labels])
    distinct = [n for n, title in enumerate(rows.titles) if rows.titles.index(title) == n]
    recall = recall_at(K, images[distinct], pair.texts([rows.titles[n] for n in distinct]))
    majority = float(target.bincount().max() / len(target))
    balanced = sum(accuracy(images[target == n], anchors, target[target == n]) for n in range(len(classes)))
    return (
        f"zero-shot accuracy {accuracy(images, anchors, target):.3f}, balanced {balanced / len(classes):.3f} "
        f"of {len(classes)} classes (majority {majority:.3f}), "
        f"mean recall at {K} {recall:.3f} of {len(distinct)} (chance {K / len(distinct):.3f})"
    )


def accuracy(images: Tensor, anchors: Tensor, target: Tensor) -> float:
    """How often the nearest of the anchors (C, D) to an image (N, D) is the target's (N,)."""
    return float(((images @ anchors.T).argmax(-1) == target).float().mean())


def recall_at(k: int, images: Tensor, texts: Tensor) -> float:
    """The mean over both directions; row n of one (N, D) belongs to row n of the other."""
    similar = images @ texts.T
    own = similar.diagonal()
    ranks = [(rows > own[:, None]).sum(-1) for rows in (similar, similar.T)]
    return float(sum((rank < k).float().mean() for rank in ranks) / 2)


if __name__ == "__main__":
    main()
