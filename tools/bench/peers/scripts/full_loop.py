"""Everything trained, classification: a loop by hand over a timm and a transformers encoder."""

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
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from transformers import AutoModel, AutoTokenizer, get_cosine_schedule_with_warmup

rows, image_encoder, text_encoder, out, seed, epochs = sys.argv[1:]
torch.manual_seed(int(seed))
tables = {split: pd.read_csv(f"{rows}/{split}.csv") for split in ("train", "val", "test")}
labels = sorted(tables["train"].label.unique())
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


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = image, text
        width = image.num_features + text.config.hidden_size
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, len(labels))
        )

    def forward(self, pixels, tokens):
        hidden = self.text(**tokens).last_hidden_state
        real = tokens["attention_mask"].unsqueeze(-1)
        pooled = (hidden * real).sum(1) / real.sum(1)
        return self.head(torch.cat([self.image(pixels), pooled], dim=-1))


def collate(batch):
    pixels = torch.stack([preprocess(Image.open(row["image"]).convert("RGB")) for row in batch])
    tokens = tokenizer(
        [row["title"] for row in batch], padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    return pixels, tokens, torch.tensor([labels.index(row["label"]) for row in batch])


def loader(split):
    return DataLoader(tables[split].to_dict("records"), batch_size=32, shuffle=split == "train", collate_fn=collate)


@torch.inference_mode()
def predict(split):
    model.eval()
    return torch.cat([model(pixels, tokens).argmax(-1) for pixels, tokens, _ in loader(split)])


model = Classifier()
encoders = [*image.parameters(), *text.parameters()]
optimizer = torch.optim.AdamW(
    [
        {"params": [p for p in encoders if p.ndim > 1], "lr": 5e-5, "weight_decay": 0.01},
        {"params": [p for p in encoders if p.ndim <= 1], "lr": 5e-5, "weight_decay": 0.0},
        {"params": model.head.parameters(), "lr": 1e-3, "weight_decay": 0.01},
    ],
    fused=True,
)
steps = int(epochs) * math.ceil(len(tables["train"]) / 32)
schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
truth = torch.tensor([labels.index(label) for label in tables["val"].label])
best, weights = -1.0, None
for epoch in range(int(epochs)):
    model.train()
    for pixels, tokens, target in loader("train"):
        nn.functional.cross_entropy(model(pixels, tokens), target).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    accuracy = (predict("val") == truth).float().mean().item()
    print(f"epoch {epoch}: val accuracy {accuracy:.3f}", flush=True)
    if accuracy > best:
        best, weights = accuracy, copy.deepcopy(model.state_dict())
model.load_state_dict(weights)
Path(out, "model").mkdir()
save_file(weights, f"{out}/model/model.safetensors")
tables["test"].assign(prediction=[labels[number] for number in predict("test")]).to_csv(f"{out}/answers.csv")
