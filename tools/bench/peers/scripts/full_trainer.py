"""Everything trained, classification: transformers' Trainer over two encoders of transformers."""

import sys

import pandas as pd
import torch
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, Trainer, TrainingArguments

rows, image_encoder, text_encoder, out, seed, epochs = sys.argv[1:]
tables = {split: pd.read_csv(f"{rows}/{split}.csv") for split in ("train", "val", "test")}
labels = sorted(tables["train"].label.unique())
tokenizer = AutoTokenizer.from_pretrained(text_encoder)
side = {"height": 112, "width": 112}
processor = AutoImageProcessor.from_pretrained(image_encoder, size=side, do_center_crop=False)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = AutoModel.from_pretrained(image_encoder, dtype=torch.float32)
        self.text = AutoModel.from_pretrained(text_encoder, dtype=torch.float32, add_pooling_layer=False)
        width = self.image.config.hidden_size + self.text.config.hidden_size
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, len(labels))
        )

    def forward(self, pixel_values, labels, **tokens):
        hidden = self.text(**tokens).last_hidden_state
        real = tokens["attention_mask"].unsqueeze(-1)
        pooled = (hidden * real).sum(1) / real.sum(1)
        logits = self.head(torch.cat([self.image(pixel_values).pooler_output, pooled], dim=-1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def collate(batch):
    images = [Image.open(row["image"]).convert("RGB") for row in batch]
    texts = [row["title"] for row in batch]
    return {
        **tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt"),
        "pixel_values": processor(images, return_tensors="pt")["pixel_values"],
        "labels": torch.tensor([labels.index(row["label"]) for row in batch]),
    }


torch.manual_seed(int(seed))
model = Classifier()
encoders = [*model.image.parameters(), *model.text.parameters()]
optimizer = torch.optim.AdamW(
    [
        {"params": [p for p in encoders if p.ndim > 1], "lr": 5e-5, "weight_decay": 0.01},
        {"params": [p for p in encoders if p.ndim <= 1], "lr": 5e-5, "weight_decay": 0.0},
        {"params": model.head.parameters(), "lr": 1e-3, "weight_decay": 0.01},
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
        metric_for_best_model="accuracy",
        remove_unused_columns=False,
        report_to="none",
        seed=int(seed),
    ),
    data_collator=collate,
    train_dataset=tables["train"].to_dict("records"),
    eval_dataset=tables["val"].to_dict("records"),
    compute_metrics=lambda found: {"accuracy": (found.predictions.argmax(-1) == found.label_ids).mean()},
    optimizers=(optimizer, None),
)
trainer.train()
trainer.save_model(f"{out}/model")
answers = trainer.predict(tables["test"].to_dict("records")).predictions.argmax(-1)
tables["test"].assign(prediction=[labels[number] for number in answers]).to_csv(f"{out}/answers.csv")
