"""Makes the two tiny encoders of mmft/samples: students of DINOv2-small and of MiniLM-L6.

    python tools/distill_encoders.py --shared ../shared --work .cache/distill

A few hours of two cores; every step goes on where it was stopped, so the command may be killed and typed again.
It downloads Debian packages of free images and of WordNet (tools/distill/sources.py says which), learns from
those and from the clip-art rows outside val and test, writes timm's and transformers' folder formats, and prints
how much of the teachers is in the students.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from distill import language, texts, vision
from distill.agreement import report
from distill.held_out import read_clipart
from distill.images import collect as collect_images
from distill.sources import fetch
from safetensors.torch import save_file

SAMPLES = Path(__file__).parents[1] / "mmft" / "samples"
IMAGE_TEACHER, TEXT_TEACHER = "encoders/dinov2-small-timm", "encoders/minilm-l6"
IMAGE_STUDENT, TEXT_STUDENT = "dinov2-tiny", "minilm-tiny"
TEXT_STEPS, IMAGE_STEPS = (4500, 4000, 6000), (3000, 1800, 2000)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", choices=["text", "image", "report"], default=["text", "image", "report"])
    parser.add_argument("--shared", type=Path, required=True, help="folder of the teachers and of data/clipart")
    parser.add_argument("--work", type=Path, default=Path(".cache/distill"), help="downloads, answers, states")
    parser.add_argument("--out", type=Path, default=SAMPLES, help="where the encoders' folders are written")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    if "text" in given.what:
        make_text_encoder(given.shared, given.work, given.out / TEXT_STUDENT)
    if "image" in given.what:
        make_image_encoder(given.shared, given.work, given.out / IMAGE_STUDENT)
    if "report" in given.what:
        teachers = (given.shared / IMAGE_TEACHER, given.shared / TEXT_TEACHER)
        students = (given.out / IMAGE_STUDENT, given.out / TEXT_STUDENT)
        print(report(teachers, students, SAMPLES / "clipart.parquet"))


def make_text_encoder(shared: Path, work: Path, out: Path) -> None:
    """Trains the text student and writes it, with its tokenizer, in transformers' format in half precision."""
    found = texts.collect(fetch(work), read_clipart(shared))
    tokens = work / "tokenizer"
    if not (tokens / "tokenizer.json").is_file():
        texts.train_tokenizer(found, language.VOCABULARY, tokens)
    tokenizer = hf.AutoTokenizer.from_pretrained(tokens)
    student = language.distill(shared / TEXT_TEACHER, tokenizer, found.every(), found.titles, TEXT_STEPS, work)
    encoder = student.encoder
    encoder.config.hidden_dropout_prob = encoder.config.attention_probs_dropout_prob = 0.1  # for fine-tuning
    encoder.half().save_pretrained(out)
    for file in tokens.iterdir():
        shutil.copy(file, out)
    (out / "model.safetensors").chmod(0o644)  # safetensors writes files that only their owner can read


def make_image_encoder(shared: Path, work: Path, out: Path) -> None:
    """Trains the image student and writes it in timm's format in half precision."""
    images = collect_images(fetch(work), read_clipart(shared), work)
    student = vision.distill(shared / IMAGE_TEACHER, images, IMAGE_STEPS, work)
    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in student.encoder.state_dict().items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "config.json").write_text(json.dumps(_timm_config(), indent=2) + "\n", encoding="utf-8")


def _timm_config() -> dict[str, Any]:
    return {
        "architecture": vision.ARCHITECTURE,
        "num_classes": 0,
        "num_features": vision.WIDTH,
        "model_args": vision.MODEL_ARGS,
        "pretrained_cfg": {
            "input_size": [3, vision.SIZE, vision.SIZE],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(vision.MEAN),
            "std": list(vision.STD),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        },
    }


if __name__ == "__main__":
    main()
