"""The text student: a BERT of four layers that learns MiniLM's masked mean of short texts.

It starts near a bag of words that already knows what the words mean: each row of its embedding matrix is the
teacher's answer to that word alone, rotated to fewer dimensions by PCA (as in model2vec,
https://github.com/MinishLab/model2vec), and a BERT layer of small weights hardly changes what comes in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

from distill.loop import batches, fit
from distill.texts import MAX_TOKENS

WIDTH, LAYERS, HEADS, VOCABULARY = 192, 4, 3, 11_500
BATCH, CHUNK = 256, 4096
SHORT = 9  # tokens, [CLS] and [SEP] included


class Student(nn.Module):
    """A BERT and, for the distillation only, the map from its masked mean to the teacher's."""

    def __init__(self, vocabulary: int, target_width: int) -> None:
        super().__init__()
        self.encoder: Any = hf.BertModel(
            hf.BertConfig(
                vocab_size=vocabulary,
                hidden_size=WIDTH,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                intermediate_size=4 * WIDTH,
                max_position_embeddings=MAX_TOKENS,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
        self.to_teacher = nn.Linear(WIDTH, target_width)

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Token ids and mask, each (B, L) -> what the teacher would say, (B, D)."""
        said: Tensor = self.to_teacher(masked_mean(self.encoder, tokens))
        return said


def masked_mean(encoder: Any, tokens: dict[str, Tensor]) -> Tensor:
    """(B, L) -> (B, D): the mean of the last layer's tokens, padding left out."""
    mask = tokens["attention_mask"].unsqueeze(-1).float()
    hidden: Tensor = encoder(**tokens).last_hidden_state
    return (hidden * mask).sum(1) / mask.sum(1)


def embed(encoder: Any, tokenizer: Any, texts: list[str], batch: int = 256) -> np.ndarray:
    """Masked means of all texts, (len(texts), D) float32, computed in order of length."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = []
    encoder.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            chosen = [texts[i] for i in order[start : start + batch]]
            parts.append(masked_mean(encoder, _tokens(tokenizer, chosen)).float().numpy())
    features = np.concatenate(parts)
    return features[np.argsort(order)]


def _tokens(tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    out = tokenizer(texts, truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt")
    return {"input_ids": out["input_ids"], "attention_mask": out["attention_mask"]}


def targets(teacher: Path, texts: list[str], work: Path) -> np.ndarray:
    """The teacher's masked means, (len(texts), D) float16, in `work/text_targets`, chunk by chunk and so resumable."""
    folder = work / "text_targets"
    folder.mkdir(parents=True, exist_ok=True)
    encoder = hf.AutoModel.from_pretrained(teacher, add_pooling_layer=False).float()
    tokenizer = hf.AutoTokenizer.from_pretrained(teacher)
    by_length = np.argsort([len(text) for text in texts], kind="stable")
    out = np.empty((len(texts), encoder.config.hidden_size), np.float16)
    for start in range(0, len(texts), CHUNK):
        path = folder / f"{start}.npy"
        rows = by_length[start : start + CHUNK]
        if not path.is_file():
            np.save(
                path.with_suffix(".part.npy"), embed(encoder, tokenizer, [texts[i] for i in rows]).astype(np.float16)
            )
            path.with_suffix(".part.npy").rename(path)
            print(f"text targets: {start + len(rows)}/{len(texts)}", flush=True)
        out[rows] = np.load(path)
    return out


def start_embeddings(student: Student, tokenizer: Any, teacher: Path) -> None:
    """Fills the student's word embeddings with the teacher's answers to the words, rotated by PCA."""
    encoder = hf.AutoModel.from_pretrained(teacher, add_pooling_layer=False).float()
    words = [word.removeprefix("##") for word in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    answers = torch.from_numpy(embed(encoder, hf.AutoTokenizer.from_pretrained(teacher), words))
    answers = answers - answers.mean(0)
    _, _, axes = torch.linalg.svd(answers, full_matrices=False)
    rotated = answers @ axes[:WIDTH].T
    weight = student.encoder.embeddings.word_embeddings.weight
    with torch.no_grad():
        weight.copy_(rotated * (0.05 / rotated.std()))
        weight[tokenizer.pad_token_id] = 0


def distill(
    teacher: Path, tokenizer: Any, texts: list[str], titles: list[str], steps: tuple[int, ...], work: Path
) -> Student:
    """Trains the student; resumable.

    Args:
        teacher: the teacher's folder.
        tokenizer: the student's.
        texts: all texts, which the first steps see.
        titles: those of `texts` that are titles; the last steps see them ten times as often, and nothing that is
            longer than titles are.
        steps: how many batches of 256 there are of all texts, and then, round by round, of short ones.
        work: folder of the states.
    """
    answers = targets(teacher, texts, work)
    units = torch.from_numpy(answers.astype(np.float32))
    units = F.normalize(units, dim=-1)
    mean, std = units.mean(0), units.std(0).clamp_min(1e-3)  # one dimension of MiniLM is constant
    torch.manual_seed(0)
    student = Student(len(tokenizer), units.shape[1])
    if not (work / "text0.pt").is_file():
        start_embeddings(student, tokenizer, teacher)
    ids = tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    known = set(titles)
    weight = [10 if text in known else 1 for text in texts]
    short = np.repeat(np.arange(len(texts)), [w * (len(row) <= SHORT) for w, row in zip(weight, ids, strict=True)])

    def loss_of(rows: np.ndarray) -> Tensor:
        said = student(_padded([ids[i] for i in rows]))
        wanted = units[rows]
        direct = F.mse_loss(said, (wanted - mean) / std)
        said = F.normalize(said * std + mean, dim=-1)
        relations = F.mse_loss(said @ said.T, wanted @ wanted.T)
        return direct + 20 * relations

    for number, count in enumerate(steps):
        stream = _length_grouped(ids, short if number else np.arange(len(texts)), count, seed=number)
        lr = 5e-4 if number else 1e-3
        fit(f"text{number}", student, _of(stream, loss_of), count, lr=lr, decay=0.01, work=work)
    return student


def _of(stream: list[np.ndarray], loss_of: Callable[[np.ndarray], Tensor]) -> Callable[[int], Tensor]:
    return lambda step: loss_of(stream[step])


def _length_grouped(ids: list[list[int]], which: np.ndarray, steps: int, seed: int) -> list[np.ndarray]:
    """The rows of each step, out of `which`: 16 batches are drawn at once and dealt by length, against padding."""
    lengths = np.array([len(row) for row in ids])
    pools = batches(len(which), 16 * BATCH, seed)
    out: list[np.ndarray] = []
    while len(out) < steps:
        pool = which[next(pools)]
        dealt = np.split(pool[np.argsort(lengths[pool], kind="stable")], 16)
        out.extend(dealt[i] for i in np.random.default_rng(len(out)).permutation(16))
    return out[:steps]


def _padded(ids: list[list[int]]) -> dict[str, Tensor]:
    rows = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)  # [PAD] is 0
    lengths = torch.tensor([len(row) for row in ids])
    return {"input_ids": rows, "attention_mask": (torch.arange(rows.shape[1]) < lengths[:, None]).long()}
