"""Retrieval, everything trained: open_clip's own training program over a timm and a transformers encoder."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from open_clip_train.main import main
from PIL import Image
from transformers import AutoTokenizer

rows, image_encoder, text_encoder, out, seed, epochs = sys.argv[1:]
encoder = Path(out, "encoder")  # a pair's config has no place for timm's image size; the folder's own has
shutil.copytree(image_encoder, encoder)
timm_config = json.loads((encoder / "config.json").read_text())
timm_config["model_args"] = {**timm_config.get("model_args", {}), "img_size": 112}
(encoder / "config.json").write_text(json.dumps(timm_config))
config = {
    "embed_dim": 256,
    "vision_cfg": {
        "image_size": 112,
        "timm_model_name": f"local-dir:{encoder}",
        "timm_pool": "token",
        "timm_proj": "linear",
    },
    "text_cfg": {
        "hf_model_name": text_encoder,
        "hf_tokenizer_name": text_encoder,
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "linear",
        "context_length": 32,
    },
}
preprocess_cfg = {name: timm_config["pretrained_cfg"][name] for name in ("mean", "std")} | {"resize_mode": "squash"}
folder = Path(out, "pair")
AutoTokenizer.from_pretrained(text_encoder).save_pretrained(folder)
(folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess_cfg}))
steps = int(epochs) * math.ceil(len(pd.read_csv(f"{rows}/train.csv")) / 32)
main(
    f"""--model local-dir:{folder} --pretrained-image --dataset-type csv --csv-separator , --csv-img-key image
    --csv-caption-key title --train-data {rows}/train.csv --val-data {rows}/val.csv --batch-size 32 --epochs {epochs}
    --lr 5e-5 --wd 0.01 --warmup {steps // 10} --grad-clip-norm 1.0 --precision fp32 --workers 0 --device cpu
    --seed {seed} --logs {out}/logs --name run""".split()
)
checkpoint = torch.load(f"{out}/logs/run/checkpoints/epoch_{epochs}.pt", map_location="cpu")
state = {name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()}
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
model.load_state_dict(state)
torch.save(state, folder / "open_clip_pytorch_model.bin")
folder.rename(Path(out, "model"))
tokenizer = open_clip.get_tokenizer(f"local-dir:{out}/model")
test = pd.read_csv(f"{rows}/test.csv")
model.eval()
images, texts = [], []
with torch.inference_mode():
    for start in range(0, len(test), 32):
        batch = test[start : start + 32]
        pixels = torch.stack([preprocess(Image.open(file)) for file in batch.image])
        images.append(model.encode_image(pixels, normalize=True))
        texts.append(model.encode_text(tokenizer(batch.title.tolist()), normalize=True))
np.savez(f"{out}/embeddings.npz", image=torch.cat(images), text=torch.cat(texts))
