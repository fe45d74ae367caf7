"""The default experiment beside what it has to beat, on the same split.

    PYTHONPATH=tools python tools/bench/default.py [--seeds 3] [overrides]

Prints the test accuracy of `mmft train`, of the same architecture from random weights, of the same with images
only and with titles only (a model of its own each), and of TF-IDF + logistic regression on the titles: scikit-learn's
defaults, and words or characters with the C that val likes best. One line for each seed, and the means.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mmft.commands import train as program
from mmft.config.compose import compose
from mmft.files import located

VARIANTS = {
    "default": [],
    "random weights": ["model.image_encoder.pretrained=false", "model.text_encoder.pretrained=false"],
    "images only": ["data.columns.text=null"],
    "titles only": ["data.columns.image=null"],
}
VECTORIZERS = [
    TfidfVectorizer(),
    TfidfVectorizer(ngram_range=(1, 2)),
    TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5)),
]


def accuracy(overrides: list[str]) -> tuple[float, float]:
    """Test accuracy of one run, and the minutes that it trained."""
    quiet = ["callbacks.progress=none", "modality_report=false"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        program.train(compose("train", ["experiment=clipart", *quiet, *overrides]), run)
        summary = json.loads((run / "summary.json").read_text())
    return float(summary["test"]["accuracy"]), float(summary["train_seconds"]) / 60


def tf_idf() -> tuple[float, float]:
    """Test accuracy with scikit-learn's defaults, and with what val likes best; fitted on train."""
    table = pq.read_table(located("mmft:clipart.parquet"), columns=["title", "category", "split"]).to_pydict()
    titles, labels, split = (np.array(table[name]) for name in ("title", "category", "split"))

    def scores(vectorizer: TfidfVectorizer, c: float) -> tuple[float, float]:
        model = make_pipeline(vectorizer, LogisticRegression(C=c, max_iter=5000))
        model.fit(titles[split == "train"], labels[split == "train"])
        val, test = (model.score(titles[split == name], labels[split == name]) for name in ("val", "test"))
        return float(val), float(test)

    best = max(scores(vectorizer, c) for vectorizer in VECTORIZERS for c in (0.3, 1, 3, 10, 30, 100))
    return scores(VECTORIZERS[0], 1.0)[1], best[1]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("overrides", nargs="*", help="for all runs, as after `mmft train`")
    args = parser.parse_args()
    plain, tuned = tf_idf()
    print(f"TF-IDF + logistic regression on titles: {plain:.3f} with defaults, {tuned:.3f} as val likes it best")
    for name in args.only:
        runs = [accuracy([*args.overrides, *VARIANTS[name], f"seed={seed}"]) for seed in range(args.seeds)]
        each = " ".join(f"{score:.3f}" for score, _ in runs)
        minutes = max(minutes for _, minutes in runs)
        print(f"{name:15s} mean {np.mean([s for s, _ in runs]):.3f}   {each}   at most {minutes:.1f} min", flush=True)


if __name__ == "__main__":
    main()
