r"""A step of `mmft train task=generation` against one of a plain loop of transformers and peft, in turns.

    PYTHONPATH=tools:tools/bench python tools/bench/generation_step.py --language-model FOLDER --image-encoder FOLDER \
        --rows manifest.csv [--batch 8] [--steps 8] [--size 112]

LoRA on the language model, a projector of two layers, a frozen image encoder whose features are not kept. The loop gets
the same decoded batches, joins the same sequences, pads them to the same length and takes the loss that transformers
computes from `labels`. Steps of both alternate in one process, see `tools/bench/step.py`; medians are compared, in
seconds of the processor, for which what else the machine does counts little. Type OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import alternating
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from mmft.batch import Batch

WARM_UP = 2
RANK, ALPHA = 8, 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Loop(nn.Module):
    """What most people would write."""

    def __init__(self, language_model: str, image_encoder: str) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel, AutoModelForCausalLM

        self.image: Any = AutoModel.from_pretrained(image_encoder, dtype=torch.float32).requires_grad_(False).eval()
        base: Any = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32)
        targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
        lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets)
        self.language: Any = get_peft_model(base, lora).train()
        width = base.config.hidden_size
        self.projector = nn.Sequential(
            nn.Linear(self.image.config.hidden_size, width), nn.GELU(), nn.Linear(width, width)
        )
        trained = [p for p in self.parameters() if p.requires_grad]
        self.trained, self.optimizer = trained, torch.optim.AdamW(trained, lr=1e-4)

    def step(self, batch: Batch) -> None:
        """One optimizer step."""
        assert batch.pixel_values is not None
        assert batch.input_ids is not None
        assert batch.attention_mask is not None
        assert batch.target is not None
        pixels = batch.pixel_values.float() / 255
        pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        with torch.no_grad():
            patches = self.image(pixel_values=pixels).last_hidden_state[:, 1:]
        images = self.projector(patches)
        embed = self.language.get_input_embeddings()
        rows, labels = [], []
        for ids, mask, target, image in zip(batch.input_ids, batch.attention_mask, batch.target, images, strict=True):
            prompt, answer = ids[mask], target[target >= 0]
            place = int((prompt == -1).nonzero())
            rows.append(torch.cat([embed(prompt[:place]), image, embed(prompt[place + 1 :]), embed(answer)]))
            ignored: Tensor = answer.new_full((len(rows[-1]) - len(answer),), -100)
            labels.append(torch.cat([ignored, answer]))
        embedded = pad_sequence(rows, batch_first=True)
        missing = -embedded.shape[1] % 8
        embedded = nn.functional.pad(embedded, (0, 0, 0, missing))
        wanted = nn.functional.pad(pad_sequence(labels, batch_first=True, padding_value=-100), (0, missing), value=-100)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(embedded.shape[1]) < lengths[:, None]).long()
        loss = self.language(inputs_embeds=embedded, attention_mask=mask, labels=wanted, use_cache=False).loss
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language-model", required=True)
    parser.add_argument("--image-encoder", required=True)
    parser.add_argument("--rows", type=Path, required=True, help="a table with the columns image, title and label")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--size", type=int, default=112)
    args = parser.parse_args()
    loop = Loop(args.language_model, args.image_encoder)

    def made(batches: list[Batch]) -> alternating.Alternating:
        return alternating.Alternating(batches[:2], loop.step, args.steps, time.process_time)

    typed = ["task=generation", "model/fusion=projector", "task.prompt='{text} What kind of drawing is this?'"]
    typed += [f"data.path={args.rows}", "data.columns.image=image", "data.columns.text=title"]
    typed += ["data.columns.label=label", f"data.limit={3 * args.batch}", "cache=never", "task.max_answer_tokens=16"]
    typed += [f"model.text_encoder.name={args.language_model}", f"model.image_encoder.name={args.image_encoder}"]
    typed += [f"model.image_encoder.image_size={args.size}", "tune/image_encoder=freeze", "tune/text_encoder=lora"]
    typed += [f"tune.text_encoder.rank={RANK}", f"tune.text_encoder.alpha={ALPHA}", "tune.text_encoder.dropout=0"]
    typed += ["model.dropout=0", "optim.lr=1e-4", "optim.head_lr=1e-4"]
    done = alternating.train(typed, args.batch, made)
    ours, theirs = (statistics.median(seconds[WARM_UP:]) for seconds in (done.ours, done.theirs))
    print(f"ours {ours:.2f} s, loop {theirs:.2f} s of the processor: ratio {ours / theirs:.3f}")


if __name__ == "__main__":
    main()
