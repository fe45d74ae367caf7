"""Retrieval, everything trained: InfoNCE in a loop by hand over a timm and a transformers encoder."""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from transformers import AutoModel, AutoTokenizer, get_cosine_schedule_with_warmup

rows, image_encoder, text_encoder, out, seed, epochs = sys.argv[1:]
torch.manual_seed(int(seed))
tables = {split: pd.read_csv(f"{rows}/{split}.csv") for split in ("train", "test")}
tokenizer = AutoTokenizer.from_pretrained(text_encoder)
image = timm.create_model(f"local-dir:{image_encoder}", pretrained=True, num_classes=0, img_size=112)
text = AutoModel.from_pretrained(text_encoder, dtype=torch.float32, add_pooling_layer=False)
preprocess = v2.Compose(
    [
        v2.ToImage(),
        v2.Resize((112, 112), interpolation=v2.InterpolationMode.BICUBIC),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(image.default_cfg["mean"], image.default_cfg["std"]),
    ]
)


class DualEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = image, text
        self.project_image = nn.Linear(image.num_features, 256, bias=False)
        self.project_text = nn.Linear(text.config.hidden_size, 256, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, pixels, tokens):
        hidden = self.text(**tokens).last_hidden_state
        real = tokens["attention_mask"].unsqueeze(-1)
        pooled = (hidden * real).sum(1) / real.sum(1)
        return normalize(self.project_image(self.image(pixels))), normalize(self.project_text(pooled))


def collate(batch):
    pixels = torch.stack([preprocess(Image.open(row["image"]).convert("RGB")) for row in batch])
    titles = [row["title"] for row in batch]
    return pixels, tokenizer(titles, padding=True, truncation=True, max_length=32, return_tensors="pt")


def loader(split):
    return DataLoader(tables[split].to_dict("records"), batch_size=32, shuffle=split == "train", collate_fn=collate)


model = DualEncoder()
encoders = [*image.parameters(), *text.parameters()]
optimizer = torch.optim.AdamW(
    [
        {"params": [p for p in encoders if p.ndim > 1], "lr": 5e-5, "weight_decay": 0.01},
        {"params": [p for p in encoders if p.ndim <= 1], "lr": 5e-5, "weight_decay": 0.0},
        {"params": [model.project_image.weight, model.project_text.weight], "lr": 1e-3, "weight_decay": 0.01},
        {"params": [model.log_scale], "lr": 1e-3, "weight_decay": 0.0},
    ],
    fused=True,
)
steps = int(epochs) * math.ceil(len(tables["train"]) / 32)
schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
model.train()
for _ in range(int(epochs)):
    for pixels, tokens in loader("train"):
        images, texts = model(pixels, tokens)
        logits = model.log_scale.exp().clamp(max=100) * images @ texts.T
        own = torch.arange(len(logits))
        ((cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
Path(out, "model").mkdir()
save_file(model.state_dict(), f"{out}/model/model.safetensors")
model.eval()
with torch.inference_mode():
    images, texts = zip(*(model(pixels, tokens) for pixels, tokens in loader("test")), strict=True)
np.savez(f"{out}/embeddings.npz", image=torch.cat(images), text=torch.cat(texts))
