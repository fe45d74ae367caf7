"""The image student: a ViT of six layers that learns DINOv2-small's class token and patch tokens.

It starts from the teacher's own weights, every second channel and every second head of its first layers
("Initializing models with larger ones", https://arxiv.org/abs/2311.18823). The teacher looks at 168 pixels and
says 12 x 12 patches, which are averaged to the student's 6 x 6 at 96 pixels; both see the same crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from distill.loop import batches, fit

ARCHITECTURE = "vit_tiny_patch16_224"
SIZE, PATCH, WIDTH, LAYERS, HEADS = 96, 16, 192, 6, 3
GRID = SIZE // PATCH
TEACHER_SIZE = 2 * 14 * GRID
MODEL_ARGS: dict[str, Any] = {"img_size": SIZE, "depth": LAYERS}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH, TEACHER_BATCH = 128, 64
FIRST_VIEWS, MIXED, ALL_VIEWS = 3, 4, 7
"""Views of the first two rounds; from this number on two images are mixed; views of the last round."""


class Student(nn.Module):
    """A ViT and, for the distillation only, the maps from its tokens to the teacher's."""

    def __init__(self, target_width: int) -> None:
        super().__init__()
        self.encoder: Any = timm.create_model(ARCHITECTURE, num_classes=0, **MODEL_ARGS)
        self.to_class = nn.Linear(WIDTH, target_width)
        self.to_patches = nn.Linear(WIDTH, target_width)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 96, 96) -> the teacher's class token (B, D) and its patches (B, 36, D), as far as guessed."""
        tokens = self.encoder.forward_features(pixels)
        return self.to_class(tokens[:, 0]), self.to_patches(tokens[:, 1:])


def load_teacher(folder: Path) -> Any:
    """DINOv2-small in float32 from its timm folder, for images of any size."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True, dynamic_img_size=True).float().eval()


def normalised(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, normalised as DINOv2 wants it."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def embed(encoder: Any, pixels: Iterator[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Class tokens (N, D) and means of the patch tokens (N, D), of batches of normalised images."""
    encoder.eval()
    with torch.inference_mode():
        tokens = [encoder.forward_features(batch) for batch in pixels]
    return torch.cat([t[:, 0] for t in tokens]).numpy(), torch.cat([t[:, 1:].mean(1) for t in tokens]).numpy()


def crops(images: np.ndarray, rows: np.ndarray, view: int, size: int) -> np.ndarray:
    """Images (R, size, size, 3) uint8 of a view: 0 is the whole image, each other one crop of each image.

    From view `MIXED` on, the crop is mixed with that of another image: eight thousand images alone are learned by
    heart ("Knowledge distillation: a good teacher is patient and consistent", https://arxiv.org/abs/2106.05237).
    """
    out = np.empty((len(rows), size, size, 3), np.uint8)
    for place, row in enumerate(rows):
        out[place] = _crop(images, int(row), view, size)
        if view >= MIXED:
            rng = np.random.default_rng((view, int(row), 1))
            other, share = int(rng.integers(len(images))), rng.uniform(0.5, 0.8)
            mixed = share * out[place] + (1 - share) * _crop(images, other, view, size)
            out[place] = np.rint(mixed).astype(np.uint8)
    return out


def _crop(images: np.ndarray, row: int, view: int, size: int) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(np.asarray(images[row]))
    box = _box(images.shape[1], view, row)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def _box(side: int, view: int, row: int) -> tuple[float, float, float, float]:
    if view == 0:
        return (0, 0, side, side)
    rng = np.random.default_rng((view, row))
    area, ratio = rng.uniform(0.3, 0.9), np.exp(rng.uniform(-0.29, 0.29))
    width, height = min(1.0, (area * ratio) ** 0.5), min(1.0, (area / ratio) ** 0.5)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return (left * side, top * side, (left + width) * side, (top + height) * side)


def targets(teacher_folder: Path, images: np.ndarray, view: int, work: Path) -> np.ndarray:
    """The teacher's tokens (N, 1 + 36, D) float16 of one view, in `work/image_targets`; resumable by chunks."""
    folder = work / "image_targets"
    folder.mkdir(parents=True, exist_ok=True)
    path, done = folder / f"view{view}.npy", folder / f"view{view}.done"
    shape = (len(images), 1 + GRID * GRID, 384)
    if path.is_file():
        out = np.lib.format.open_memmap(path, mode="r+")
    else:
        out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    first = int(done.read_text()) if done.is_file() else 0
    if first < len(images):
        teacher = load_teacher(teacher_folder)
    for start in range(first, len(images), TEACHER_BATCH):
        rows = np.arange(start, min(start + TEACHER_BATCH, len(images)))
        with torch.inference_mode():
            tokens = teacher.forward_features(normalised(crops(images, rows, view, TEACHER_SIZE)))
            patches = tokens[:, 1:].transpose(1, 2).unflatten(2, (2 * GRID, 2 * GRID))
            patches = F.avg_pool2d(patches, 2).flatten(2).transpose(1, 2)
            out[rows] = torch.cat([tokens[:, :1], patches], dim=1).half().numpy()
        if start // TEACHER_BATCH % 10 == 0 or rows[-1] + 1 == len(images):
            out.flush()
            done.write_text(str(rows[-1] + 1))
            print(f"image targets: view {view}, {rows[-1] + 1}/{len(images)}", flush=True)
    answers: np.ndarray = np.load(path, mmap_mode="r")
    return answers


def start_from_teacher(student: Any, teacher: Any) -> None:
    """Fills a timm ViT with every second channel and head of a wider one; its layer scale is folded in."""
    wide, heads = teacher.embed_dim, teacher.blocks[0].attn.num_heads
    width = torch.arange(0, wide, wide // WIDTH)
    hidden = torch.arange(0, 4 * wide, wide // WIDTH)
    of_heads = torch.arange(wide).view(heads, -1)[:: heads // HEADS].flatten()
    qkv = torch.cat([of_heads + part * wide for part in range(3)])
    with torch.no_grad():
        kernel = resample_patch_embed(teacher.patch_embed.proj.weight, [PATCH, PATCH])
        student.patch_embed.proj.weight.copy_(kernel[width])
        student.patch_embed.proj.bias.copy_(teacher.patch_embed.proj.bias[width])
        student.cls_token.copy_(teacher.cls_token[..., width])
        places = resample_abs_pos_embed(teacher.pos_embed, [GRID, GRID], num_prefix_tokens=1)
        student.pos_embed.copy_(places[..., width])
        for mine, theirs in zip(student.blocks, teacher.blocks, strict=False):
            for norm in ("norm1", "norm2"):
                _take(getattr(mine, norm), getattr(theirs, norm), width)
            _take(mine.attn.qkv, theirs.attn.qkv, qkv, width)
            _take(mine.attn.proj, theirs.attn.proj, width, of_heads, theirs.ls1.gamma)
            _take(mine.mlp.fc1, theirs.mlp.fc1, hidden, width)
            _take(mine.mlp.fc2, theirs.mlp.fc2, width, hidden, theirs.ls2.gamma)
        _take(student.norm, teacher.norm, width)


def _take(mine: Any, theirs: Any, outputs: Tensor, inputs: Tensor | None = None, scale: Tensor | None = None) -> None:
    """Chosen outputs, and inputs, of a layer, times the chosen entries of `scale`."""
    factor = torch.ones(len(outputs)) if scale is None else scale[outputs]
    weight = theirs.weight[outputs]
    mine.weight.copy_(weight if inputs is None else weight[:, inputs] * factor[:, None])
    mine.bias.copy_(theirs.bias[outputs] * factor)


def distill(teacher_folder: Path, images: np.ndarray, rounds: tuple[int, ...], work: Path) -> Student:
    """Trains the student; resumable.

    Args:
        teacher_folder: the teacher's timm folder.
        images: (N, S, S, 3) uint8.
        rounds: batches of 128 in each round, which has a schedule of its own. In the first another view comes in
            after each eighth of them; the third and later ones have mixed images too.
        work: folder of the answers and states.
    """
    tokens = [targets(teacher_folder, images, 0, work)]
    some = tokens[0][:: max(1, len(images) // 2000)].astype(np.float32)
    means = [torch.from_numpy(part.mean((0, 1))) for part in (some[:, :1], some[:, 1:])]
    stds = [torch.from_numpy(part.std((0, 1))).clamp_min(1e-2) for part in (some[:, :1], some[:, 1:])]
    torch.manual_seed(0)
    student = Student(some.shape[-1])
    if not (work / "image0.pt").is_file():
        start_from_teacher(student.encoder, load_teacher(teacher_folder))

    def loss_of(rows: np.ndarray, rng: np.random.Generator, views: int) -> Tensor:
        while len(tokens) < views:
            tokens.append(targets(teacher_folder, images, len(tokens), work))
        view = int(rng.integers(views))
        rows = np.sort(rows)
        pixels = normalised(crops(images, rows, view, SIZE))
        wanted = torch.from_numpy(tokens[view][rows]).float()
        patches = wanted[:, 1:]
        if rng.random() < 0.5:
            pixels = pixels.flip(3)
            patches = patches.unflatten(1, (GRID, GRID)).flip(2).flatten(1, 2)
        said_class, said_patches = student(pixels)
        whole = F.mse_loss(said_class, (wanted[:, 0] - means[0]) / stds[0])
        parts = F.mse_loss(said_patches, (patches - means[1]) / stds[1])
        said = F.normalize(said_class, dim=-1)
        there = F.normalize((wanted[:, 0] - means[0]) / stds[0], dim=-1)
        return whole + parts + 5 * F.mse_loss(said @ said.T, there @ there.T)

    for number, steps in enumerate(rounds):
        stream = batches(len(images), BATCH, seed=number)
        order = [next(stream) for _ in range(steps)]

        def loss_at(step: int, order: list[np.ndarray] = order, number: int = number, steps: int = steps) -> Tensor:
            first = FIRST_VIEWS if number else min(FIRST_VIEWS, 1 + 8 * step // steps)
            views = ALL_VIEWS if number > 1 else first
            return loss_of(order[step], np.random.default_rng((1 + number, step)), views)

        fit(f"image{number}", student, loss_at, steps, lr=5e-4 if number else 1e-3, decay=0.05, work=work)
    return student
