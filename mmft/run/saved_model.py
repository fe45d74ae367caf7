"""The finished model as a folder: `model/` of a run. It can be moved, and holds the trained weights.

    config.json          model config, label names, how rows are read
    model.safetensors    the trained parameters
    image_encoder/       the encoder's own config files
    text_encoder/        the same, and the tokenizer
    plugins/             the files of `plugins=[FILE.py]`, if any

Frozen weights are referenced by hub name, path relative to the run and content hash, and searched for there
and in the folders of `MMFT_ENCODERS`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmft.build import apply_tuning, build_model, build_task, frozen_layers, head_maker, prepare_generation
from mmft.config.plugins import files_of, import_plugins, installed, packages_of
from mmft.config.schema.model import ENCODERS
from mmft.config.schema.root import TrainConfig
from mmft.config.validate import read, to_dict
from mmft.errors import UserError
from mmft.files import CHECKSUMS, is_sealed, replace_folder, seal
from mmft.logs import quiet_bitsandbytes
from mmft.models.frozen_layers import widen
from mmft.models.loading.source import Source, encoder_folders, find_by_hash, resolve, small_files, weight_files
from mmft.models.pairs.open_clip_pair import save_missing_files
from mmft.models.vision_language_model import VisionLanguageModel, part_of
from mmft.run_folder import as_when_saved
from mmft.tasks.base import Task
from mmft.training.checkpoint import check_whole, save_tensors
from mmft.tuning.methods.base import TuningMethod
from mmft.tuning.plan import TuningPlan

_WEIGHTS = "model.safetensors"
_PLUGINS = "plugins"


@dataclass
class SavedModel:
    """A finished model, ready to use.

    Attributes:
        model: in eval mode, on the CPU.
        task: with its label names.
        config: the config of its training.
        working_directory: base of relative paths in `config`.
        methods: the tuning method of each encoder.
        trained: names of the parameters and buffers that training changed.
        folder: that it was loaded from; None for a pretrained pair.
    """

    model: VisionLanguageModel
    task: Task
    config: TrainConfig
    working_directory: Path
    methods: Mapping[str, TuningMethod]
    trained: frozenset[str]
    folder: Path | None = None

    @cached_property
    def digest(self) -> str:
        """Identifies the model: equal for two only if their files are."""
        digest = hashlib.sha256(type(self.task).__name__.encode())
        if self.folder is None:
            for encoder in ENCODERS:
                digest.update(getattr(self.model, encoder).source.content_hash().encode())
        elif is_sealed(self.folder):
            digest.update((self.folder / CHECKSUMS).read_bytes())
        else:
            for file in (self.folder / "config.json", self.folder / _WEIGHTS):
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def is_trained(self, encoder: str) -> bool:
        """Whether training changed anything of an encoder."""
        return any(part_of(name) == encoder for name in self.trained)

    def merge(self) -> None:
        """Merges weights added by tuning methods into the encoders' own; all weights are then in float32.

        Raises:
            UserError: a method's weights cannot be merged.
        """
        for encoder, method in self.methods.items():
            widen(getattr(self.model, encoder))
            method.merge(getattr(self.model, encoder))


def save_model(
    folder: Path, model: VisionLanguageModel, task: Task, plan: TuningPlan, config: TrainConfig, cwd: Path
) -> None:
    """Writes the finished model to `folder` atomically."""
    replace_folder(folder, lambda new: _fill(new, folder, model, task, plan, config, cwd))


def _fill(
    new: Path, final: Path, model: VisionLanguageModel, task: Task, plan: TuningPlan, config: TrainConfig, cwd: Path
) -> None:
    saved = plan.saved_names(model)
    state = model.state_dict()
    save_tensors({name: state[name].detach().cpu().contiguous() for name in sorted(saved)}, new / _WEIGHTS)
    whole = {encoder: all(name in saved for name in state if part_of(name) == encoder) for encoder in ENCODERS}
    bases = {encoder: _base(getattr(model, encoder).source, final, whole[encoder]) for encoder in ENCODERS}
    content = {
        "format": 1,
        "config": to_dict(config),
        "working_directory": str(cwd),
        "packages": packages_of(config),
        "task": task.state(),
        "encoders": bases,
        "input": {
            "image_size": model.image_encoder.image_size,
            "max_length": model.text_encoder.max_length,
            "text_pool": model.text_encoder.pool,
        },
    }
    (new / "config.json").write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    for file in files_of(config.plugins, cwd):
        (new / _PLUGINS).mkdir(exist_ok=True)
        shutil.copy2(file, new / _PLUGINS / file.name)
    for encoder in ENCODERS:
        source, text = getattr(model, encoder).source, model.text_encoder
        _copy_small_files(source.folder, new / encoder)
        if source.library == "open_clip":
            save_missing_files(source, text.backbone, text.tokenizer, new / encoder)
    seal(new)


def _base(source: Source, final: Path, whole: bool) -> dict[str, Any]:
    """An encoder's source, and whether the folder holds all its weights."""
    if source.library == "own":
        return {"name": source.name, "library": source.library, "path": None, "sha256": None, "is_whole": True}
    return {
        "name": source.name,
        "library": source.library,
        "path": os.path.relpath(source.folder, final),
        "sha256": source.content_hash() if weight_files(source.folder) else None,
        "is_whole": whole,
    }


def _copy_small_files(source: Path, target: Path) -> None:
    """Copies configs and tokenizer, and the code of an encoder that is loaded by its own."""
    target.mkdir()
    if source == Path():
        return
    for file in small_files(source):
        if file.is_file() and not file.name.endswith(".index.json"):
            shutil.copy2(file, target / file.name)


def load_model(folder: Path) -> SavedModel:
    """Loads a finished model.

    Args:
        folder: a `model/` folder.

    Raises:
        UserError: there is no model, one of its files was altered, or a frozen encoder's weights cannot be found.
    """
    quiet_bitsandbytes()
    if not (folder / "config.json").is_file() and not is_sealed(folder):
        raise UserError(f"{folder} has no finished model. A run has one once it is completed.")
    check_whole(folder)
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        state = load_file(folder / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be read as a finished model ({error}).") from None
    base = Path(content["working_directory"])
    import_plugins(content["config"].get("plugins", ()), base, folder / _PLUGINS)
    config = _read_config(content["config"], folder, content.get("packages", {}))
    task = build_task(config.task)
    task.load_state(content["task"])
    sources, pretrained = {}, {}
    for encoder in ENCODERS:
        whole = Source(content["encoders"][encoder]["name"], folder / encoder, content["encoders"][encoder]["library"])
        pretrained[encoder] = not content["encoders"][encoder]["is_whole"]
        typed = base / content["encoders"][encoder]["name"]
        sources[encoder] = (
            find_base(encoder, content["encoders"][encoder], folder, typed) if pretrained[encoder] else whole
        )
    _fix_input(config, content["input"], pretrained)
    model = build_model(config.model, head_maker(config, task), config.seed, sources, frozen_layers(config))
    prepare_generation(model, task)
    methods = apply_tuning(config, model)
    if config.trainer.precision == "64-true":
        model.double()
    _load_state(model, state, {encoder for encoder in ENCODERS if pretrained[encoder]})
    return SavedModel(model.eval(), task, config, base, methods, frozenset(state), folder)


def _read_config(values: dict[str, Any], folder: Path, packages: Mapping[str, str]) -> TrainConfig:
    # Not `parse`: the training rows may no longer exist.
    result = read(as_when_saved(values), TrainConfig)
    if result.problems:
        wrong = [f"{p.key}: {p.text} (in {folder / 'config.json'})" for p in result.problems]
        there = {option for plugin in installed() for option in plugin.options}
        gone = [
            f"{option} belongs to the package {origin}" for option, origin in packages.items() if option not in there
        ]
        raise UserError(wrong + [f"{text}, which is not installed here" for text in gone])
    config: TrainConfig = result.config
    return config


def find_base(encoder: str, base: Mapping[str, Any], folder: Path, typed: Path) -> Source:
    """Finds a frozen encoder by hash: relative to the run, at its original path, in `MMFT_ENCODERS`, on the hub."""
    beside = (folder / base["path"]).resolve()
    wanted = base["sha256"]
    found = find_by_hash(wanted, [beside, typed, *encoder_folders()])
    if found is None and not Path(base["name"]).is_absolute() and not base["name"].startswith("."):
        found = _from_hub(base["name"], wanted)
    if found is None:
        raise UserError(
            f"model.{encoder}: the frozen encoder {base['name']} (sha256 {wanted}) is neither at {beside} "
            "nor in a folder of MMFT_ENCODERS. Type: MMFT_ENCODERS=FOLDER_WITH_IT mmft ..."
        )
    return Source(base["name"], found, base["library"])


def _from_hub(name: str, wanted: str) -> Path | None:
    try:
        return find_by_hash(wanted, [resolve(name, "name").folder])
    except UserError:
        return None


def _fix_input(config: TrainConfig, given: Mapping[str, Any], pretrained: Mapping[str, bool]) -> None:
    config.model.image_encoder.image_size = given["image_size"]
    text = config.model.text_encoder
    text.max_length = given["max_length"]
    # In runs that do not say, `auto` meant the mean.
    text.pool = given.get("text_pool", "mean" if text.pool == "auto" else text.pool)
    config.model.image_encoder.pretrained = pretrained["image_encoder"]
    config.model.text_encoder.pretrained = pretrained["text_encoder"]


def _load_state(model: nn.Module, state: dict[str, Tensor], from_base: set[str]) -> None:
    missing, unexpected = model.load_state_dict(state, strict=False)
    lost = [name for name in missing if name.partition(".")[0] not in from_base]
    if lost or unexpected:
        raise UserError(f"The model folder does not fit: missing {lost[:3]}, unexpected {list(unexpected)[:3]}.")
