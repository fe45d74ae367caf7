"""Frozen encoders, classification: features computed once by hand, then a loop of the head alone."""

import copy
import math
import sys
from pathlib import Path

import pandas as pd
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import v2
from transformers import AutoModel, AutoTokenizer, get_cosine_schedule_with_warmup

rows, image_encoder, text_encoder, out, seed, epochs = sys.argv[1:]
torch.manual_seed(int(seed))
tables = {split: pd.read_csv(f"{rows}/{split}.csv") for split in ("train", "val", "test")}
labels = sorted(tables["train"].label.unique())
tokenizer = AutoTokenizer.from_pretrained(text_encoder)
image = timm.create_model(f"local-dir:{image_encoder}", pretrained=True, num_classes=0, img_size=112).eval()
text = AutoModel.from_pretrained(text_encoder, dtype=torch.float32, add_pooling_layer=False).eval()
preprocess = v2.Compose(
    [
        v2.ToImage(),
        v2.Resize((112, 112), interpolation=v2.InterpolationMode.BICUBIC),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(image.default_cfg["mean"], image.default_cfg["std"]),
    ]
)


@torch.no_grad()
def features(table):
    found = []
    for start in range(0, len(table), 32):
        batch = table[start : start + 32]
        pixels = torch.stack([preprocess(Image.open(file).convert("RGB")) for file in batch.image])
        tokens = tokenizer(batch.title.tolist(), padding=True, truncation=True, max_length=32, return_tensors="pt")
        hidden = text(**tokens).last_hidden_state
        real = tokens["attention_mask"].unsqueeze(-1)
        found.append(torch.cat([image(pixels), (hidden * real).sum(1) / real.sum(1)], dim=-1))
    return torch.cat(found)


inputs = {split: features(table) for split, table in tables.items()}
targets = {split: torch.tensor([labels.index(label) for label in table.label]) for split, table in tables.items()}
width = inputs["train"].shape[1]
head = nn.Sequential(
    nn.LayerNorm(width), nn.Linear(width, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, len(labels))
)
optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
steps = int(epochs) * math.ceil(len(tables["train"]) / 32)
schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
best, weights = -1.0, None
for epoch in range(int(epochs)):
    head.train()
    for batch in torch.randperm(len(tables["train"])).split(32):
        nn.functional.cross_entropy(head(inputs["train"][batch]), targets["train"][batch]).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    with torch.no_grad():
        accuracy = (head.eval()(inputs["val"]).argmax(-1) == targets["val"]).float().mean().item()
    print(f"epoch {epoch}: val accuracy {accuracy:.3f}", flush=True)
    if accuracy > best:
        best, weights = accuracy, copy.deepcopy(head.state_dict())
head.load_state_dict(weights)
Path(out, "model").mkdir()
save_file(weights, f"{out}/model/head.safetensors")
with torch.no_grad():
    answers = head.eval()(inputs["test"]).argmax(-1)
tables["test"].assign(prediction=[labels[number] for number in answers]).to_csv(f"{out}/answers.csv")
