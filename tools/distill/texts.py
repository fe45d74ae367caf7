"""The texts that the text student learns from, and the vocabulary that is trained on them.

Titles of Open Clip Art outside the held-out rows; WordNet's lemmas; the definition of each synset, up to the
first semicolon (what follows are examples of use).
"""

from __future__ import annotations

import gzip
import html
import json
import re
from dataclasses import dataclass
from pathlib import Path

import transformers as hf
from tokenizers import BertWordPieceTokenizer

from distill.held_out import ClipArt, held_out

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_TOKENS = 64
_TITLE = re.compile(r"<dc:title>([^<]{2,80})</dc:title>")


@dataclass(frozen=True)
class Texts:
    """Distinct texts, each kind sorted."""

    titles: list[str]
    lemmas: list[str]
    definitions: list[str]

    def every(self) -> list[str]:
        """All of them, distinct and sorted."""
        return sorted({*self.titles, *self.lemmas, *self.definitions})


def collect(sources: dict[str, Path], clipart: list[ClipArt]) -> Texts:
    """All texts; the titles of held-out rows, and any title equal to one, are not among the titles."""
    hidden = {normal(row.title) for row in held_out(clipart)}
    titles = {normal(row.title) for row in clipart} | {normal(t) for t in _titles(sources["openclipart-svg"])}
    lemmas, definitions = _wordnet(sources["wordnet-base"])
    kept = ({text for text in some if len(text) > 1} for some in (titles - hidden, lemmas, definitions))
    return Texts(*(sorted(some) for some in kept))


def normal(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.lower().split())


def _titles(package: Path) -> set[str]:
    """The title of each drawing: the first of its metadata, before its publisher's."""
    titles = set()
    for path in sorted((package / "usr/share/openclipart/svg").rglob("*.svg*")):
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".svgz" else data)[:20000].decode("utf-8", "replace")
        if found := _TITLE.search(text.split("<dc:publisher>")[0]):
            titles.add(html.unescape(found[1]))
    return titles


def _wordnet(package: Path) -> tuple[set[str], set[str]]:
    """Lemmas and definitions, from the database files as wndb(5WN) describes them."""
    lemmas, definitions = set(), set()
    for path in sorted((package / "usr/share/wordnet").glob("data.*")):
        for line in path.read_text(encoding="latin-1").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, _, gloss = line.partition(" | ")
            words = fields.split()
            for n in range(int(words[3], 16)):
                lemma = re.sub(r"\(\w+\)$", "", words[4 + 2 * n])  # an adjective's marker
                lemmas.add(normal(lemma.replace("_", " ")))
            definitions.add(normal(gloss.split(";")[0]))
    return lemmas, definitions


def train_tokenizer(texts: Texts, size: int, out: Path) -> None:
    """Trains an uncased WordPiece vocabulary of `size` and writes it as an ordinary BERT tokenizer into `out`.

    Titles count 20 times, and lemmas not at all: most of those are names of species and drugs, whose pieces
    would take the place of everyday words (58 % of the words of the val titles were whole with them, 68 % so).
    Its order may differ between processes (`tokenizers` breaks ties so), so it is made once and kept.
    """
    corpus = texts.definitions + 20 * texts.titles
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(corpus, vocab_size=size, min_frequency=2, special_tokens=SPECIALS, limit_alphabet=200)
    tokenizer = hf.BertTokenizer(vocab=trainer.get_vocab(), do_lower_case=True, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(out)
    path = out / "tokenizer.json"
    compact = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(compact, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
