"""Retrieval, everything trained: transformers' Trainer over its VisionTextDualEncoderModel."""

import sys

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, Trainer, TrainingArguments, VisionTextDualEncoderModel

rows, image_encoder, text_encoder, out, seed, epochs = sys.argv[1:]
tables = {split: pd.read_csv(f"{rows}/{split}.csv") for split in ("train", "val", "test")}
tokenizer = AutoTokenizer.from_pretrained(text_encoder)
side = {"height": 112, "width": 112}
processor = AutoImageProcessor.from_pretrained(image_encoder, size=side, do_center_crop=False)


def collate(batch):
    images = [Image.open(row["image"]).convert("RGB") for row in batch]
    texts = [row["title"] for row in batch]
    return {
        **tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt"),
        "pixel_values": processor(images, return_tensors="pt")["pixel_values"],
        "return_loss": True,
    }


torch.manual_seed(int(seed))
model = VisionTextDualEncoderModel.from_vision_text_pretrained(image_encoder, text_encoder)
encoders = [*model.vision_model.parameters(), *model.text_model.parameters()]
optimizer = torch.optim.AdamW(
    [
        {"params": [p for p in encoders if p.ndim > 1], "lr": 5e-5, "weight_decay": 0.01},
        {"params": [p for p in encoders if p.ndim <= 1], "lr": 5e-5, "weight_decay": 0.0},
        {"params": [model.visual_projection.weight, model.text_projection.weight], "lr": 1e-3, "weight_decay": 0.01},
        {"params": [model.logit_scale], "lr": 1e-3, "weight_decay": 0.0},
    ],
    fused=True,
)
trainer = Trainer(
    model,
    TrainingArguments(
        f"{out}/checkpoints",
        num_train_epochs=int(epochs),
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        remove_unused_columns=False,
        report_to="none",
        seed=int(seed),
    ),
    data_collator=collate,
    train_dataset=tables["train"].to_dict("records"),
    eval_dataset=tables["val"].to_dict("records"),
    optimizers=(optimizer, None),
)
trainer.train()
trainer.save_model(f"{out}/model")
found = []
model.eval()
with torch.inference_mode():
    for start in range(0, len(tables["test"]), 32):
        batch = model(**{**collate(tables["test"][start : start + 32].to_dict("records")), "return_loss": False})
        found.append((batch.image_embeds, batch.text_embeds))
images, texts = (torch.cat(part) for part in zip(*found, strict=True))
np.savez(f"{out}/embeddings.npz", image=images, text=texts)
