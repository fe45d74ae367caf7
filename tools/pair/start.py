r"""Joins an image encoder and a text encoder to a folder of transformers' VisionTextDualEncoderModel, before training.

    python tools/pair/start.py OUT/start --rows OUT/rows.parquet --wordnet OUT/src/deb/wordnet-base/usr/share/wordnet \
        --image-encoder ../shared/encoders/dinov2-small --text-encoder ../shared/encoders/minilm-l6

That model reads each encoder's `pooler_output`. DINOv2's is its class token after the last norm. MiniLM was trained
with the mean of its tokens and its folder has no pooler, so its last layers and a pooler on the class token are first
distilled from that mean, on the titles of the rows and on WordNet's words, until the pooler gives the same embedding.
The text projection starts where it undoes the pooler's scale, the image projection at random.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import transformers as hf
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from pair.names import WordNet
from pair.vision import half_precision, load, processor

SCALE = 0.25  # of what goes into the pooler's tanh, which is nearly linear there
TRAINED = 2  # last layers of the text encoder
BATCH = 128
LR = 3e-4
MAX_TOKENS = 32


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True, help="folder of WordNet's database files")
    parser.add_argument("--image-encoder", type=Path, required=True)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--side", type=int, default=112, help="of images, in pixels")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    titles = sorted(set(pq.read_table(given.rows, columns=["title"])["title"].to_pylist()))
    words = sorted(word.replace("_", " ") for word in WordNet(given.wordnet).words)
    pair = join(given.image_encoder, given.text_encoder)
    tokenizer = hf.AutoTokenizer.from_pretrained(given.text_encoder)
    texts = titles + random.Random(0).sample(words, min(len(words), len(titles)))
    cosine = distil_pooler(pair.text_model, tokenizer, texts, given.steps)
    print(f"mean cosine of the pooler's output and the mean of the tokens: {cosine:.4f}")
    save(pair, tokenizer, given.side, given.out)


def join(image_encoder: Path, text_encoder: Path) -> hf.VisionTextDualEncoderModel:
    """The two encoders of these folders as one model, with projections as wide as the text encoder."""
    vision = load(image_encoder)
    text = hf.AutoModel.from_pretrained(text_encoder, dtype=torch.float32, add_pooling_layer=True)
    width = text.config.hidden_size
    config = hf.VisionTextDualEncoderConfig.from_vision_text_configs(vision.config, text.config, projection_dim=width)
    pair = hf.VisionTextDualEncoderModel(config, vision_model=vision, text_model=text)
    with torch.no_grad():
        text.pooler.dense.weight.copy_(SCALE * torch.eye(width))
        text.pooler.dense.bias.zero_()
        pair.text_projection.weight.copy_(torch.eye(width) / SCALE)
    return pair


def mean_of_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, L, D), (B, L) -> (B, D), the mean of the real tokens."""
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def distil_pooler(text: Any, tokenizer: hf.PreTrainedTokenizerBase, texts: list[str], steps: int) -> float:
    """Trains the last layers and the pooler, in place, to give the mean of the tokens of the encoder as it was.

    Returns:
        The mean cosine between the two over the last tenth of the steps, before each step.
    """
    teacher = copy.deepcopy(text).eval()
    trained = [*text.encoder.layer[-TRAINED:].parameters(), *text.pooler.parameters()]
    text.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.01, fused=True)
    chance, began, agreements = random.Random(1), time.monotonic(), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LR * min((step + 1) / (0.05 * steps + 1), 0.5 + 0.5 * math.cos(math.pi * step / steps))
        batch = chance.sample(texts, min(BATCH, len(texts)))
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with half_precision():
            with torch.no_grad():
                wanted = mean_of_tokens(teacher(**tokens).last_hidden_state, tokens["attention_mask"])
            agreement = F.cosine_similarity(text(**tokens).pooler_output.float(), wanted.float()).mean()
        optimizer.zero_grad()
        (1 - agreement).backward()
        optimizer.step()
        agreements.append(agreement.item())
        if step % 50 == 49:
            print(f"step {step + 1}/{steps}: cosine {agreements[-1]:.4f}, {time.monotonic() - began:.0f} s", flush=True)
    text.requires_grad_(True)
    last = agreements[-max(1, steps // 10) :]
    return sum(last) / len(last)


def save(pair: hf.VisionTextDualEncoderModel, tokenizer: hf.PreTrainedTokenizerBase, side: int, out: Path) -> None:
    """Writes model, tokenizer and image processor, which squashes images to `side` pixels as mmft does."""
    pair.save_pretrained(out)
    tokenizer.save_pretrained(out)
    text = json.dumps(processor(side), indent=2)
    (out / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
