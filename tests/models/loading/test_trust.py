"""No model folder runs code, whatever is in it, with `y` waiting on stdin. Each here would make a file `touched`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Mmft
from safetensors.torch import load_file

from mmft.config import plugins
from mmft.errors import UserError
from mmft.models.image_encoder import build_image_encoder
from mmft.models.text_encoder import build_text_encoder

TOUCHED = Path("touched")


class Payload:
    """Touches the file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {TOUCHED.absolute()}",)


def edit(file: Path, **changes: Any) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({name: value for name, value in (known | changes).items() if value is not None}))


def write_code(file: Path) -> None:
    """A module that touches the file when it is imported, with classes that transformers could build from."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f"import pathlib\npathlib.Path({str(TOUCHED.absolute())!r}).touch()\n"
        "from transformers import BertConfig, BertModel, BertTokenizer, BertTokenizerFast\n"
        "class Config(BertConfig):\n    model_type = 'hostile'\n"
        "class Model(BertModel):\n    config_class = Config\n"
        "class Tokenizer(BertTokenizer):\n    pass\n"
    )


def own_code(folder: Path, module: str = "hostile", **config: Any) -> None:
    write_code(folder / f"{module}.py")
    mapped = {"AutoConfig": f"{module}.Config", "AutoModel": f"{module}.Model"}
    edit(folder / "config.json", **{"model_type": "hostile", "auto_map": mapped} | config)


def own_tokenizer(folder: Path, mapped: Any, name: str | None = "HostileTokenizer") -> None:
    write_code(folder / "hostile.py")
    edit(folder / "tokenizer_config.json", tokenizer_class=name, auto_map=mapped)


def pickled(folder: Path, name: str, **options: Any) -> Path:
    """Puts the payload among the weights, in a file of torch's instead of the safetensors."""
    weights = dict(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "more": Payload()}, folder / name, **options)
    return folder / name


def linked(file: Path) -> None:
    """Moves a file out of the folder and puts a link to it in its place."""
    outside = Path("outside") / file.name
    outside.parent.mkdir(exist_ok=True)
    shutil.move(file, outside)
    file.symlink_to(outside.absolute())


def sharded(folder: Path) -> None:
    names = dict.fromkeys(load_file(folder / "model.safetensors"), "pytorch_model-00001-of-00001.bin")
    pickled(folder, "pytorch_model-00001-of-00001.bin")
    edit(folder / "pytorch_model.bin.index.json", metadata={}, weight_map=names)


def sharded_by_any_name(folder: Path) -> None:
    names = dict.fromkeys(load_file(folder / "model.safetensors"), "notes.txt")
    pickled(folder, "notes.txt")
    edit(folder / "pytorch_model.bin.index.json", metadata={}, weight_map=names)


def plain_pickle(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload()))


def scripted(folder: Path, name: str) -> None:
    """A TorchScript archive whose pickles hold the payload."""
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / name, "w") as archive:
        for inner in ("data.pkl", "constants.pkl"):
            archive.writestr(f"archive/{inner}", pickle.dumps(Payload()))
        archive.writestr("archive/version", "3")


def tarred(folder: Path, name: str) -> None:
    """The oldest format of torch.save."""
    (folder / "model.safetensors").unlink()
    with tarfile.open(folder / name, "w") as archive:
        for inner in ("pickle", "tensors", "storages"):
            data = pickle.dumps(Payload())
            info = tarfile.TarInfo(inner)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def adapter(folder: Path) -> None:
    base = Path("base")
    shutil.copytree(folder, base)
    own_code(base)
    edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(base.absolute()), r=1)
    torch.save({"more": Payload()}, folder / "adapter_model.bin")


def adapter_alone(folder: Path) -> None:
    write_code(folder / "hostile.py")
    mapping = {"base_model_class": "Model", "parent_library": "hostile"}
    edit(folder / "adapter_config.json", peft_type="LORA", auto_mapping=mapping, base_model_name_or_path=str(folder))


def custom_generate(folder: Path) -> None:
    write_code(folder / "custom_generate" / "generate.py")
    edit(folder / "generation_config.json", custom_generate=str(folder), trust_remote_code=True)


def chat_template(folder: Path) -> None:
    text = "{{ cycler.__init__.__globals__.os.system('touch " + str(TOUCHED.absolute()) + "') }}"
    (folder / "chat_template.jinja").write_text(text)
    edit(folder / "tokenizer_config.json", chat_template=text)


def sentence_transformers(folder: Path) -> None:
    write_code(folder / "hostile.py")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "hostile.Model"}]
    (folder / "modules.json").write_text(json.dumps(modules))


def python_files(folder: Path) -> None:
    for name in (
        "__init__",
        "sitecustomize",
        "conftest",
        "setup",
        "config",
        "tokenizer",
        "safetensors",
        "sentencepiece",
    ):
        write_code(folder / f"{name}.py")


def nested(folder: Path) -> None:
    own_code(folder, model_type="clip", text_config=json.loads((folder / "config.json").read_text()))
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config=config["text_config"] | {"auto_map": config["auto_map"]})


def processor(folder: Path) -> None:
    write_code(folder / "hostile.py")
    for name in ("preprocessor", "processor", "video_preprocessor"):
        mapped = {"AutoImageProcessor": "hostile.Model", "AutoProcessor": "hostile.Model"}
        edit(folder / f"{name}_config.json", image_processor_type="Hostile", auto_map=mapped)


def timm_elsewhere(folder: Path) -> None:
    """Weights at an address or path that the config names."""
    other = Path("other.pth").absolute()
    torch.save({"more": Payload()}, other)
    own = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    places = {"file": str(other), "url": other.as_uri(), "custom_load": True, "source": "file"}
    edit(folder / "config.json", pretrained_cfg=own | places)


def timm_arguments(folder: Path) -> None:
    write_code(folder / "hostile.py")
    edit(folder / "config.json", model_args={"norm_layer": "hostile.Model", "act_layer": "os.system"})


def timm_second_file(folder: Path) -> None:
    """Timm prefers pytorch_model.bin to safetensors of a name that it does not know."""
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    torch.save({"more": Payload()}, folder / "pytorch_model.bin")


MAPPED = {"AutoTokenizer": ["hostile.Tokenizer", None]}
TEXT: dict[str, Callable[[Path], Any]] = {
    "auto_map": own_code,
    "auto_map, another repository": lambda f: own_code(f, auto_map={"AutoConfig": "owner/name--hostile.Config"}),
    "auto_map, a path out of the folder": lambda f: own_code(f, "../hostile"),
    "auto_map, only the model": lambda f: own_code(f, auto_map={"AutoModel": "hostile.Model"}),
    "auto_map, model_type that transformers has": lambda f: own_code(f, model_type="bert"),
    "auto_map, no model_type": lambda f: own_code(f, model_type=None),
    "auto_map, a list": lambda f: own_code(f, auto_map=["hostile.Config", "hostile.Model"]),
    "auto_map, a linked module": lambda f: (own_code(f), linked(f / "hostile.py")),
    "auto_map, nested": nested,
    "tokenizer": lambda f: own_tokenizer(f, MAPPED),
    "tokenizer, old list": lambda f: own_tokenizer(f, ["hostile.Tokenizer", None]),
    "tokenizer, fast": lambda f: own_tokenizer(f, {"AutoTokenizer": [None, "hostile.Tokenizer"]}),
    "tokenizer, class of transformers": lambda f: own_tokenizer(f, MAPPED, "BertTokenizer"),
    "tokenizer, no class": lambda f: own_tokenizer(f, MAPPED, None),
    "tokenizer, dotted class": lambda f: own_tokenizer(f, None, "hostile.Tokenizer"),
    "tokenizer, nothing else": lambda f: (own_tokenizer(f, MAPPED), (f / "tokenizer.json").unlink()),
    "model and tokenizer": lambda f: (own_code(f), own_tokenizer(f, MAPPED)),
    "processor": processor,
    "pickle": lambda f: pickled(f, "pytorch_model.bin"),
    "pickle, old format": lambda f: pickled(f, "pytorch_model.bin", _use_new_zipfile_serialization=False),
    "pickle, oldest format": lambda f: tarred(f, "pytorch_model.bin"),
    "pickle, plain": lambda f: plain_pickle(f, "pytorch_model.bin"),
    "pickle, TorchScript": lambda f: scripted(f, "pytorch_model.bin"),
    "pickle, linked": lambda f: linked(pickled(f, "pytorch_model.bin")),
    "pickle, called safetensors": lambda f: plain_pickle(f, "model.safetensors"),
    "pickle, sharded": sharded,
    "pickle, sharded by any name": sharded_by_any_name,
    "adapter": adapter,
    "adapter alone": adapter_alone,
    "kernel": lambda f: edit(f / "config.json", attn_implementation="owner/kernel"),
    "kernel, nested": lambda f: edit(f / "config.json", _attn_implementation={"": "owner/kernel:f"}),
    "quantized": lambda f: edit(f / "config.json", quantization_config={"quant_method": "hostile"}),
    "custom_generate": custom_generate,
    "chat_template": chat_template,
    "sentence-transformers": sentence_transformers,
    "Python files": python_files,
}
IMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "auto_map": ("hf_dinov2", own_code),
    "processor": ("hf_dinov2", processor),
    "pickle": ("hf_dinov2", lambda f: pickled(f, "pytorch_model.bin")),
    "timm, .bin": ("timm_vit", lambda f: pickled(f, "pytorch_model.bin")),
    "timm, .pth": ("timm_vit", lambda f: pickled(f, "model.pth")),
    "timm, .pt": ("timm_vit", lambda f: plain_pickle(f, "model.pt")),
    "timm, linked": ("timm_vit", lambda f: linked(pickled(f, "model.bin"))),
    "timm, called safetensors": ("timm_vit", lambda f: plain_pickle(f, "model.safetensors")),
    "timm, elsewhere": ("timm_vit", timm_elsewhere),
    "timm, arguments": ("timm_vit", timm_arguments),
    "timm, second file": ("timm_vit", timm_second_file),
    "timm, auto_map": ("timm_vit", own_code),
}
# Of these, the code is not needed: the folder loads as if it were not there.
LOADS = {
    "auto_map, model_type that transformers has",
    "tokenizer, class of transformers",
    "tokenizer, dotted class",
    "processor",
    "custom_generate",
    "chat_template",
    "sentence-transformers",
    "Python files",
    "timm, elsewhere",
    "timm, auto_map",
}


@pytest.fixture(autouse=True)
def _in_a_folder_with_yes_on_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    monkeypatch.setattr(plugins, "_allowed", False)


def _tried(kind: str, build: Callable[[], Any]) -> None:
    if kind in LOADS:
        build()
    else:
        with pytest.raises(UserError, match=r"^model\.(text|image)_encoder\.name(=|: )") as refused:
            build()
        assert len(refused.value.messages) == 1
    assert not TOUCHED.exists()


@pytest.mark.parametrize("kind", TEXT)
def test_text_encoders(kind: str, text_encoder_folder: Any) -> None:
    folder = shutil.copytree(text_encoder_folder("bert"), Path("folder")).absolute()
    TEXT[kind](folder)
    _tried(kind, lambda: build_text_encoder(str(folder), 32, "auto", pretrained=True))


@pytest.mark.parametrize("kind", IMAGE)
def test_image_encoders(kind: str, image_encoder_folder: Any) -> None:
    encoder, make = IMAGE[kind]
    folder = shutil.copytree(image_encoder_folder(encoder), Path("folder")).absolute()
    make(folder)
    _tried(kind, lambda: build_image_encoder(str(folder), 32, "auto", pretrained=True))


def test_payloads_do_what_they_should(text_encoder_folder: Any) -> None:
    """Otherwise nothing above could fail."""
    folder = shutil.copytree(text_encoder_folder("bert"), Path("folder")).absolute()
    with contextlib.suppress(Exception):
        torch.load(pickled(folder, "pytorch_model.bin"), weights_only=False)
    assert TOUCHED.exists()


def test_allowed_code_runs(text_encoder_folder: Any) -> None:
    folder = shutil.copytree(text_encoder_folder("bert"), Path("folder")).absolute()
    own_code(folder)
    plugins.allow_code()
    encoder = build_text_encoder(str(folder), 32, "auto", pretrained=True)
    assert TOUCHED.exists()
    assert type(encoder.backbone).__module__.startswith("transformers_modules")
    pickled(folder, "pytorch_model.bin")
    TOUCHED.unlink()
    with pytest.raises(UserError, match="holds more than tensors"):  # no one's code, whatever is allowed
        build_text_encoder(str(folder), 32, "auto", pretrained=True)
    assert not TOUCHED.exists()


def test_allowed_code_of_a_tokenizer_runs(text_encoder_folder: Any) -> None:
    folder = shutil.copytree(text_encoder_folder("bert"), Path("folder")).absolute()
    own_tokenizer(folder, {"AutoTokenizer": [None, "hostile.Tokenizer"]})
    plugins.allow_code()
    encoder = build_text_encoder(str(folder), 32, "auto", pretrained=True)
    assert TOUCHED.exists()
    assert type(encoder.tokenizer).__module__.startswith("transformers_modules")


def test_the_refusal_says_what_to_type(text_encoder_folder: Any) -> None:
    folder = shutil.copytree(text_encoder_folder("bert"), Path("folder")).absolute()
    own_code(folder)
    with pytest.raises(UserError, match=r"'hostile' is none of transformers'.*AutoConfig, AutoModel.*--allow-code"):
        build_text_encoder(str(folder), 32, "auto", pretrained=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "train"])
def test_commands_do_not_ask(command: str, forked_mmft: Mmft, shapes: Any, shapes_overrides: list[str]) -> None:
    folder = shutil.copytree(shapes.text_encoder, Path("folder")).absolute()
    own_code(folder)
    encoder = [*shapes_overrides, f"model.text_encoder.name={folder}"]
    done = forked_mmft(command, *encoder, check=False, stdin="y\n" * 100)
    assert done.returncode == 2
    assert "--allow-code" in done.stderr
    assert "Traceback" not in done.stderr
    assert not TOUCHED.exists()
    done = forked_mmft(command, *encoder, "--allow-code", check=False)
    assert done.returncode == 0, done.stderr
    assert "running the code in its folder" in done.stderr
    assert TOUCHED.exists()
    if command == "train":  # the finished model has the code, and asks for the flag as well
        shutil.rmtree(folder)
        TOUCHED.unlink()
        use = ["predict", "run=last", f"data.path={shapes.rows}", "out=predictions.csv"]
        assert "--allow-code" in forked_mmft(*use, check=False, stdin="y\n" * 100).stderr
        assert not TOUCHED.exists()
        forked_mmft(*use, "--allow-code")
        assert TOUCHED.exists()
