"""Retrieval, everything trained: sentence-transformers, whose Router takes images and texts to an encoder each."""

import sys

import numpy as np
import pandas as pd
from datasets import Dataset, Image
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling

rows, image_encoder, text_encoder, out, seed, epochs = sys.argv[1:]
tables = {split: pd.read_csv(f"{rows}/{split}.csv")[["image", "title"]] for split in ("train", "val", "test")}
sets = {split: Dataset.from_pandas(table).cast_column("image", Image(mode="RGB")) for split, table in tables.items()}
side = {"height": 112, "width": 112}
image = Transformer(image_encoder, processor_kwargs={"size": side, "do_center_crop": False})
text = Transformer(text_encoder, max_seq_length=32)
routes = {}
for name, encoder, pooling in (("image", image, "cls"), ("text", text, "mean")):
    width = encoder.get_embedding_dimension()
    dense = Dense(width, 256, bias=False, activation_function=None)
    routes[name] = [encoder, Pooling(width, pooling), dense, Normalize()]
model = SentenceTransformer(modules=[Router(routes)])
trainer = SentenceTransformerTrainer(
    model,
    SentenceTransformerTrainingArguments(
        f"{out}/checkpoints",
        num_train_epochs=int(epochs),
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        learning_rate=5e-5,
        learning_rate_mapping={r"sub_modules\.\w+\.2\.": 1e-3},
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        max_grad_norm=1.0,
        router_mapping={"image": "image", "title": "text"},
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        report_to="none",
        seed=int(seed),
    ),
    train_dataset=sets["train"],
    eval_dataset=sets["val"],
    loss=MultipleNegativesRankingLoss(
        model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    ),
)
trainer.train()
model.save_pretrained(f"{out}/model")
images = model.encode(sets["test"]["image"][:])
np.savez(f"{out}/embeddings.npz", image=images, text=model.encode(tables["test"].title.tolist()))
