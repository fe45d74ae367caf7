"""Everything trained, classification: AutoGluon MultiModal, its own rates, schedule and augmentation."""

import sys
from pathlib import Path

import pandas as pd
import timm
import torch
from autogluon.multimodal import MultiModalPredictor
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed

rows, image_encoder, text_encoder, out, seed, epochs = sys.argv[1:]


@timm.models.register_model
def dinov2_112(**options):  # a folder has no place for the image size, and the encoder's own is 518
    return timm.create_model("vit_small_patch14_dinov2", img_size=112, **options)


folder = Path(out, "encoder")  # AutoGluon takes a folder with `pytorch_model.bin`, and does not resample positions
folder.mkdir()
weights = load_file(f"{image_encoder}/model.safetensors")
weights["pos_embed"] = resample_abs_pos_embed(weights["pos_embed"].float(), (8, 8))
torch.save(weights, folder / "pytorch_model.bin")
config = Path(image_encoder, "config.json").read_text()
config = config.replace("vit_small_patch14_dinov2", "dinov2_112").replace("518", "112")
(folder / "config.json").write_text(config)

tables = {split: pd.read_csv(f"{rows}/{split}.csv")[["image", "title", "label"]] for split in ("train", "val", "test")}
predictor = MultiModalPredictor(label="label", problem_type="multiclass", path=f"{out}/model")
predictor.fit(
    tables["train"],
    tuning_data=tables["val"],
    column_types={"image": "image_path", "title": "text"},
    hyperparameters={
        "model.names": ["timm_image", "hf_text", "fusion_mlp"],
        "model.timm_image.checkpoint_name": str(folder),
        "model.hf_text.checkpoint_name": text_encoder,
        "model.hf_text.pooling_mode": "mean",
        "model.hf_text.max_text_len": 32,
        "optim.max_epochs": int(epochs),
        "env.batch_size": 32,
        "env.per_gpu_batch_size": 32,
        "env.num_workers": 0,
        "env.num_workers_inference": 0,
        "env.num_gpus": 0,
    },
    seed=int(seed),
)
answers = predictor.predict(tables["test"].drop(columns="label"))
pd.read_csv(f"{rows}/test.csv").assign(prediction=list(answers)).to_csv(f"{out}/answers.csv")
