"""What `mmft check features=true` finds on the real clip-art rows: altered copies, planted wrong labels; and its time.

    python tools/bench/features_check.py --shared ../shared --out FOLDER [--seeds 5] [--rows 100000]

- 300 rows (by seed 0) get altered copies of their image or title, which are whitened together with all 2,424 rows.
  Recall is the share of copies with at least some cosine to their original. Of pairs of different rows that reach it,
  those of one `group` have the same title or a same-looking image.
- 5 % of the labels are replaced by another, by seed: precision among as many of the worst rows, and AUROC.
- `--rows` vectors of width 384: seconds and peak memory of the nearest neighbours.
"""

from __future__ import annotations

import argparse
import csv
import random
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc

from mmft import build
from mmft.config.compose import compose
from mmft.config.schema.audit import AuditConfig
from mmft.config.schema.root import CheckConfig
from mmft.data.splitting.splits import load_splits
from mmft.reports.audit.feature_rows import FeatureRows, feature_rows
from mmft.reports.audit.neighbours import nearest, whitened
from mmft.reports.audit.suspects import NEIGHBOURS, ClassVotes
from mmft.training.hardware import choose_hardware

ALTERED, PLANTED = 300, 0.05
LEAST = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def _hue(image: Image.Image) -> Image.Image:
    pixels = np.array(image.convert("HSV"))
    pixels[..., 0] += 40  # of 256, modulo
    return Image.fromarray(pixels, "HSV").convert("RGB")


def _cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


IMAGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 20": lambda image: image,
    "half the size": lambda image: image.resize((max(1, image.width // 2), max(1, image.height // 2))),
    "brighter by 30 %": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "another hue": _hue,
    "mirrored": ImageOps.mirror,
    "cropped by 5 %": _cropped,
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "with a border": lambda image: ImageOps.expand(image, border=image.width // 12, fill="white"),
}
TEXTS: dict[str, Callable[[str], str]] = {
    "words reversed": lambda text: " ".join(reversed(text.split())),
    "'The' in front": lambda text: f"The {text}",
    "an s at the end": lambda text: f"{text}s",
    "a number at the end": lambda text: f"{text} 2",
    "'a picture of' in front": lambda text: f"a picture of {text}",
}


class Copies(NamedTuple):
    """The table with altered copies after its own rows, and which row each is a copy of, and how it was altered."""

    path: Path
    originals: list[int]
    names: list[str]


def altered(shared: Path, out: Path) -> Copies:
    """Writes the copies, and the table of all rows."""
    folder = shared / "data/clipart"
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["image"] = str((folder / row["image"]).resolve())
    copies = Copies(out / "altered.csv", [], [])
    (out / "altered").mkdir(parents=True, exist_ok=True)
    made = []
    for at in random.Random(0).sample(range(len(rows)), ALTERED):
        image = Image.open(rows[at]["image"]).convert("RGB")
        for number, (name, alter) in enumerate(IMAGES.items()):
            path = out / "altered" / f"{at}_{number}.jpg"
            alter(image).save(path, quality=20 if name.startswith("JPEG") else 90)
            made.append(rows[at] | {"image": str(path.resolve()), "title": ""})
            copies.names.append(name)
        for name, reword in TEXTS.items():
            made.append(rows[at] | {"image": "", "title": reword(rows[at]["title"])})
            copies.names.append(name)
        copies.originals.extend([at] * (len(IMAGES) + len(TEXTS)))
    with copies.path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows + made)
    return copies


def features(shared: Path, out: Path, path: Path) -> tuple[FeatureRows, list[str]]:
    """The features of a table as `mmft check` computes them, all rows in one split, and their labels."""
    columns = {"image": "image", "text": "title", "label": "label", "group": "group"}
    typed = [
        "data=table",
        f"data.path={path}",
        *(f"data.columns.{role}={name}" for role, name in columns.items()),
        f"model.image_encoder.name={shared}/encoders/dinov2-small-timm",
        f"model.text_encoder.name={shared}/encoders/minilm-l6",
        "model.image_encoder.image_size=112",
        "model.text_encoder.max_length=32",
        f"paths.cache={out}/store",
        "cache=always",
        "trainer.precision=32-true",
        "data.fractions={train:1.0,val:0.0,test:0.0}",
    ]
    config: CheckConfig = compose("check", typed).config
    choose_hardware(config.trainer)
    splits = load_splits(config.data, config.seed)
    task = build.build_task(config.task)
    task.fit(splits["train"].table.labels(splits["train"].rows))
    model = build.build_model(config.model, task.make_head, config.seed)
    data = build.build_data(config, splits, model, task)
    rows = feature_rows(config, model, data.datasets, lambda _: None)
    return rows, rows.labels()


def tell_copies(rows: FeatureRows, copies: Copies, own: int) -> None:
    """Prints the recall of altered copies, and how many pairs of the table's own rows are as similar."""
    groups = (rows.splits["train"].table.groups() or [])[:own]
    print(f"\n{own * (own - 1) // 2:,} pairs of {own:,} rows")
    for modality, names in (("image", IMAGES), ("text", TEXTS)):
        vectors, content = rows.modalities[modality].features, rows.modalities[modality].content[:own]
        print(f"{modality + 's, least cosine':32}", *(f"{least:6.2f}" for least in LEAST))
        cosine = (vectors[own:] * vectors[torch.tensor(copies.originals)]).sum(1)
        for name in names:
            mine = cosine[torch.tensor([one == name for one in copies.names])]
            print(f"  {name:30}", *(f"{(mine >= least).float().mean():6.2f}" for least in LEAST))
        alike = (vectors[:own] @ vectors[:own].T).tril(-1).masked_fill(content[:, None] == content, 0)
        pairs = [(alike >= least).nonzero().tolist() for least in LEAST]
        print(f"  {'pairs of different rows':30}", *(f"{len(found):6}" for found in pairs))
        same = [sum(groups[a] == groups[b] for a, b in found) for found in pairs]
        print(f"  {'of these in one group':30}", *(f"{count:6}" for count in same))


def tell_planted(rows: FeatureRows, labels: list[str], seeds: int) -> None:
    """Prints how well planted wrong labels are found, by image, by text, and by both."""
    names = sorted(set(labels))
    right = torch.tensor([names.index(label) for label in labels])
    count = round(PLANTED * len(right))
    kinds = {"image": rows.modalities["image"].features, "text": rows.modalities["text"].features}
    kinds["image and text"] = rows.together()
    print(f"\n{count} of {len(right)} labels are wrong; chance: precision {PLANTED}, AUROC 0.5")
    for kind, vectors in kinds.items():
        near = nearest(vectors, vectors, NEIGHBOURS, among="others")
        figures = []
        for seed in range(seeds):
            drawn = np.random.default_rng(seed)
            at = torch.from_numpy(drawn.choice(len(right), count, replace=False))
            given = right.clone()
            given[at] = (given[at] + torch.from_numpy(drawn.integers(1, len(names), count))) % len(names)
            figures.append(_figures(ClassVotes(given, len(names), near), given != right, names))
        mean, std = torch.tensor(figures).mean(0), torch.tensor(figures).std(0)
        said = zip(("precision", "AUROC", "listed", "precision of listed", "recall of listed"), mean, std, strict=True)
        print(f"  {kind:15}", "  ".join(f"{name} {a:.3f} ± {b:.3f}" for name, a, b in said))
        print(f"  {'':15} of the right labels {len(list(_suspects(right, near, names)))} are listed")


def _suspects(label: Tensor, near: object, names: list[str]) -> list[int]:
    votes = ClassVotes(label, len(names), near)  # type: ignore[arg-type]
    return [one.at for one in votes.suspects(names, AuditConfig().suspect_share)]


def _figures(votes: ClassVotes, wrong: Tensor, names: list[str]) -> list[float]:
    found = {one.at: one.score for one in votes.suspects(names, AuditConfig().suspect_share)}
    score = votes.share.masked_fill(votes.theirs == votes.label[:, None], 0).amax(1) - votes.own
    score[list(found)] = torch.tensor(list(found.values())) + 2  # what is listed comes first
    worst = score.topk(int(wrong.sum())).indices
    listed = wrong[list(found)].float()
    return [
        float(wrong[worst].float().mean()),
        float(binary_auroc(score.sigmoid(), wrong.int())),
        float(len(listed)),
        float(listed.mean()),
        float(listed.sum() / wrong.sum()),
    ]


def tell_time(rows: int) -> None:
    """Prints how long the neighbours of random vectors take."""
    vectors = functional.normalize(torch.randn(rows, 384, generator=torch.Generator().manual_seed(0)), dim=1)
    ways: Mapping[str, Callable[[], object]] = {
        "whitening": lambda: whitened(vectors),
        "near duplicates": lambda: nearest(vectors, vectors, 8, 0.75, "earlier"),
        "neighbours": lambda: nearest(vectors, vectors, NEIGHBOURS, among="others"),
    }
    print(f"\n{rows:,} rows of width 384, {torch.get_num_threads()} threads")
    for name, way in ways.items():
        begin = time.perf_counter()
        way()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"  {name:20} {time.perf_counter() - begin:.0f} s, peak memory of the process {peak:.2f} GiB")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=0)
    given = parser.parse_args()
    if given.rows:
        tell_time(given.rows)
        return
    copies = altered(given.shared, given.out)
    rows, labels = features(given.shared, given.out, given.shared / "data/clipart/manifest.csv")
    tell_planted(rows, labels, given.seeds)
    tell_copies(features(given.shared, given.out, copies.path)[0], copies, len(labels))


if __name__ == "__main__":
    main()
