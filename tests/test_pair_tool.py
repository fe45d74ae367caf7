"""`tools/pair`: names to captions, packages to drawings, rows without copies, a folder that transformers loads."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from distill.held_out import ClipArt
from pair.clip_art import folded, outside
from pair.images import Seen, difference_hash, squashed
from pair.names import WordNet, caption_of, sentence, templated
from pair.rows import collect, rows_of
from pair.sources import Drawing, icons, resources
from PIL import Image, ImageDraw


def entry(offset: str, lemma: str, kind: str | None) -> str:
    """A synset's line as wndb(5WN) has it."""
    pointers = f"001 @ {kind} n 0000" if kind else "000"
    return f"{offset} 05 n 01 {lemma} 0 {pointers} | a gloss\n"


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    """A dog is a canine, a mammal, an animal, an organism, a whole, an object, an entity."""
    chain = ["entity", "object", "whole", "organism", "animal", "mammal", "canine", "dog"]
    lines = [entry(f"{n:08}", word, f"{n - 1:08}" if n else None) for n, word in enumerate(chain)]
    folder = tmp_path / "wordnet"
    folder.mkdir()
    (folder / "data.noun").write_text("  1 the licence\n" + "".join(lines))
    index = [f"{word} n 1 1 @ 1 0 {n:08}\n" for n, word in enumerate(chain)]
    (folder / "index.noun").write_text("  1 the licence\n" + "".join(index))
    (folder / "index.adj").write_text("brown a 1 0 1 0 00000001\n")
    return WordNet(folder)


def test_names_become_captions(wordnet: WordNet) -> None:
    assert caption_of("brown_Dog-symbolic_48", wordnet.words) == "brown dog"
    assert caption_of("brownDogs2", wordnet.words) == "brown dogs"
    assert caption_of("qbittorrent", wordnet.words) is None
    assert caption_of("48x48", wordnet.words) is None


def test_sentences_and_templates() -> None:
    assert sentence("A brown potato.") == "a brown potato"
    assert sentence("A lute. Played in Spain.") == "a lute"
    assert templated("dog", "icon") == "an icon of a dog"
    assert templated("a brown potato", "photograph") == "a photograph of a brown potato"
    assert templated("apple", "drawing") == "a drawing of an apple"


def test_kinds_are_those_of_the_last_noun_without_the_most_general(wordnet: WordNet) -> None:
    assert wordnet.kinds_of("brown dogs") == ["canine", "mammal", "animal"]
    assert wordnet.kinds_of("brown") == []


def drawn(*corners: int) -> bytes:
    """PNG bytes of a triangle."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).polygon(corners, fill="red", outline="black")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


LEFT, RIGHT, FLAT = drawn(5, 5, 5, 60, 60, 30), drawn(60, 5, 60, 60, 5, 30), drawn(5, 20, 60, 5, 55, 40)


def hashed(data: bytes) -> np.ndarray:
    code = difference_hash(squashed(Image.open(io.BytesIO(data))))
    assert code is not None
    return code


def test_an_image_is_kept_once_with_all_its_names_and_hidden_ones_are_not(wordnet: WordNet) -> None:
    hidden = Seen()
    hidden.add(hashed(RIGHT))
    found = [
        Drawing(LEFT, False, "dog", "drawing"),
        Drawing(LEFT, False, "brown-mammal", "icon"),
        Drawing(RIGHT, False, "animal", "drawing"),
        Drawing(FLAT, False, "qbittorrent", "drawing"),
        Drawing(b"no image", False, "dog", "drawing"),
    ]
    kept = collect(iter(found), wordnet, hidden)
    assert [(image.kind, image.names) for image in kept] == [("drawing", ["dog", "brown mammal"])]


def test_all_rows_of_an_image_share_a_split(wordnet: WordNet) -> None:
    found = [Drawing(LEFT, False, "dog", "drawing", categories=("Farm", "")), Drawing(FLAT, False, "animal", "icon")]
    kept = collect(iter(found), wordnet, Seen())
    rows = list(rows_of(kept, wordnet))
    titles = {group: [row[1] for row in rows if row[4] == group] for group in ("0", "1")}
    assert titles["0"][:2] == ["dog", "a drawing of a dog"]
    assert len(titles["0"]) == 5  # and two words for what a dog is, and its category
    assert titles["0"][-1] in ("farm", "a drawing of a farm")
    assert titles["1"] == ["animal", "an icon of an animal"]
    assert len({row[3] for row in rows if row[4] == "0"}) == 1


def test_no_drawing_of_the_library_has_a_title_of_the_sample(wordnet: WordNet) -> None:
    found = [
        Drawing(LEFT, False, "Brown Dog", "drawing", source="clip art"),
        Drawing(RIGHT, False, "mammal", "drawing", "Brown dog.", source="clip art"),
        Drawing(FLAT, False, "brown-dog", "icon", source="themes"),  # another's dog may be called so
    ]
    (kept,) = collect(iter(found), wordnet, Seen(), {"browndog"})
    assert (kept.source, kept.names) == ("themes", ["brown dog"])


def described(title: str, *keywords: str, description: str = "") -> bytes:
    """An SVG with the metadata of Open Clip Art."""
    said = "".join(f"<rdf:li>{keyword}</rdf:li>" for keyword in keywords)
    names = 'xmlns:cc="http://cc" xmlns:rdf="http://rdf" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    fields = f"<dc:title>{title}</dc:title><dc:description>{description}</dc:description>"
    work = f"<cc:Work>{fields}<dc:subject><rdf:Bag>{said}</rdf:Bag></dc:subject></cc:Work>"
    return f"<svg {names}><metadata>{work}</metadata></svg>".encode()


def test_of_open_clip_art_what_is_outside_the_sample(tmp_path: Path) -> None:
    files = {
        "animals/wolf_01.svg": described("Wolf", "animals", "mammal", "hash", description="A grey wolf."),
        "animals/dog_01.svg": described("Dog"),
        "food/dog_copy.svg": described("DOG!"),
        "food/pear.svg": described("Pear", "fruit", description="EPS from http://site"),
        **{f"icons/theme/{name}.svg": described("A Theme") for name in ("save", "open", "dog", "print")},
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "animals" / "link.svg").symlink_to("wolf_01.svg")
    sample = [ClipArt("animals/dog_01", Path(), "Dog", "animals", "train", "0")]
    found = {drawing.path.stem: drawing for drawing in outside(tmp_path, sample)}
    assert sorted(found) == ["open", "pear", "print", "save", "wolf_01"]
    wolf, pear, save = found["wolf_01"], found["pear"], found["save"]
    assert (wolf.title, wolf.description, wolf.keywords) == ("Wolf", "A grey wolf.", ("mammal",))
    assert (pear.description, pear.keywords) == ("", ("fruit",))
    assert save.title == ""  # four files have it, so it is the collection's
    assert folded("Dog_01 (brown)") == "dog01brown"


def test_what_is_near_an_image_of_the_sample_is_not_apart() -> None:
    import torch
    from pair.apart import apart, first_rows

    sample = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    features = torch.tensor([[3.0, 0.1], [1.0, 1.0], [0.1, 1.0]])
    assert apart(features, sample).tolist() == [False, True, False]
    assert first_rows(["a", "a", "b", "a"]) == {"a": 0, "b": 2}


def test_icons_of_a_set(tmp_path: Path) -> None:
    held = {"icons": {"dog": {"body": "<path/>"}, "old": {"body": "", "hidden": True}}, "width": 24}
    (tmp_path / "icons.json").write_text(json.dumps(held))
    (tmp_path / "metadata.json").write_text(json.dumps({"categories": {"Animals": ["dog"]}}))
    ((name, svg, category),) = icons(tmp_path)
    assert (name, category) == ("dog", "Animals")
    assert b'viewBox="0 0 24 16"' in svg
    assert b"<path/>" in svg


def test_a_resource_file_of_qt() -> None:
    def named(name: str) -> bytes:
        return struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")

    plain, packed = b"one", zlib.compress(b"two")
    contents = struct.pack(">I", len(plain)) + plain
    second = len(contents)
    contents += struct.pack(">II", len(packed) + 4, 3) + packed
    names = named("a.svg") + named("b.svg")
    nodes = struct.pack(">IHII", 0, 2, 2, 1)
    nodes += struct.pack(">IHHHI", 0, 0, 0, 0, 0) + struct.pack(">IHHHI", len(named("a.svg")), 1, 0, 0, second)
    begin = 20
    head = b"qres" + struct.pack(">4I", 1, begin, begin + len(nodes), begin + len(nodes) + len(contents))
    assert list(resources(head + nodes + contents + names)) == [("/a.svg", b"one"), ("/b.svg", b"two")]
    with pytest.raises(ValueError, match="qres"):
        list(resources(b"no"))


def test_the_projections_learn_which_text_belongs_to_which_image(tmp_path: Path) -> None:
    """From 200 pairs whose text features are a rotation of the image features; the other 40 are then found."""
    import torch
    from pair.align import Images, Learner
    from pair.start import join
    from tiny_encoders import make_image_encoder, make_text_encoder
    from transformers import AutoTokenizer

    titles = [f"title {n}" for n in range(240)]
    text = make_text_encoder(tmp_path / "text", titles)
    pair = join(make_image_encoder(tmp_path / "image", kind="hf_dinov2"), text)
    images = Images([], [[title] for title in titles], np.arange(240) >= 200)
    learner = Learner(pair, AutoTokenizer.from_pretrained(text), images, 50)
    noise = torch.Generator().manual_seed(0)
    features = torch.randn(240, 32, generator=noise)
    rotated = features @ torch.linalg.qr(torch.randn(32, 32, generator=noise))[0]
    before = learner.recall(features, rotated)
    learner.fit(features, 20, 1e-2, texts=rotated)
    assert before < 0.6  # a quarter by chance
    assert learner.recall(features, rotated) > 0.9


def test_recall_and_accuracy() -> None:
    import torch
    from pair.judge import accuracy, recall_at

    eye = torch.eye(12)
    assert accuracy(eye, eye, torch.arange(12)) == 1
    assert recall_at(1, eye, eye) == 1
    assert recall_at(10, eye, -eye) == 0  # its own is the one that is farthest


@pytest.mark.parametrize("there", [False, True])
def test_bfloat16_where_the_processor_has_it(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from pair.vision import half_precision

    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: there)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    with half_precision():
        product = torch.eye(2) @ torch.eye(2)
    assert product.dtype == (torch.bfloat16 if there else torch.float32)


def test_a_vision_transformer_of_timm_is_the_same_as_a_dinov2(tmp_path: Path) -> None:
    import timm
    import torch
    from pair import vision

    import mmft

    folder = Path(mmft.__file__).parent / "samples" / "dinov2-tiny"
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    ours = vision.load(folder).eval()
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(pixels).pooler_output, theirs(pixels), atol=1e-4, rtol=1e-4)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="neither"):
        vision.load(tmp_path)
