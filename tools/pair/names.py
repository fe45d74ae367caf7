"""From the names of files to captions."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

LONGEST = 8  # words

# Words of a file's name that say how an image is drawn or where it belongs, not what it shows.
_NOISE = frozenset(
    """
    symbolic filled fill regular outline outlined solid bold thin light duotone color colored colour flat rtl ltr alt
    streamline round rounded sharp twotone new old default small large mini big icon icons image img photo picture
    gnome kde gtk mate xfce stock mime gartoon nuovo yasis oxygen system preferences svg png desc copy variant
    legacy panel emblem x vnd app application negative glyph one two three four logo fg bg background src the of a an
    """.split()  # noqa: SIM905  a list of eighty strings is harder to read
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def words_of(name: str) -> list[str]:
    """`user-home-symbolic_48` -> ["user", "home"]."""
    found = _WORD.findall(_CAMEL.sub(" ", name).lower())
    return [word for word in found if word not in _NOISE and len(word) > 1]


def caption_of(name: str, dictionary: Collection[str]) -> str | None:
    """A file's name as a caption; None where no word of it is in the dictionary, as in brands, or it is too long."""
    words = words_of(name)
    known = [word for word in words if len(word) > 2 and (word in dictionary or word.removesuffix("s") in dictionary)]
    return " ".join(words) if known and len(words) <= LONGEST and 2 * len(known) >= len(words) else None


def sentence(text: str) -> str:
    """A description without its full stop: "A brown potato." -> "a brown potato"; all but its first sentence goes."""
    first = re.split(r"(?<=[a-z])[.!?](?:\s|$)", text.strip())[0]
    return " ".join(first.rstrip(".!?").split()).lower()


def templated(caption: str, kind: str) -> str:
    """`dog`, `drawing` -> "a drawing of a dog"."""
    article = "" if re.match(r"(a|an|the|flag|some|two|three|\d+)\b", caption) else "a "
    if article and caption[0] in "aeiou":
        article = "an "
    before = "an" if kind[0] in "aeiou" else "a"
    return f"{before} {kind} of {article}{caption}"


class WordNet:
    """The nouns of WordNet: which words there are, and what each is a kind of.

    Args:
        folder: of its database files (`data.noun`, `index.noun`, ...), as wndb(5WN) describes them.
    """

    def __init__(self, folder: Path) -> None:
        self.words: set[str] = set()
        for path in sorted(folder.glob("index.*")):
            for line in path.read_text(encoding="latin-1").splitlines():
                if line[:2].strip():
                    self.words.add(line.split(" ", 1)[0])
        self._synsets: dict[str, tuple[str, list[str]]] = {}  # offset -> first lemma, hypernyms
        for line in (folder / "data.noun").read_text(encoding="latin-1").splitlines():
            if line[:2].strip():
                fields = line.split(" | ")[0].split()
                lemma = re.sub(r"\(\w+\)$", "", fields[4]).replace("_", " ").lower()
                kinds = [fields[n + 1] for n, field in enumerate(fields) if field in ("@", "@i")]
                self._synsets[fields[0]] = lemma, kinds
        self._first: dict[str, str] = {}
        for line in (folder / "index.noun").read_text(encoding="latin-1").splitlines():
            if line[:2].strip():
                fields = line.split()
                self._first[fields[0]] = fields[-int(fields[2])]

    def kinds_of(self, caption: str) -> list[str]:
        """What the caption's last noun is, by its commonest sense: nearest first, without the most general words."""
        words = caption.split()
        for at in range(len(words)):
            for word in ("_".join(words[at:]), "_".join(words[at:]).removesuffix("s")):
                if word in self._first:
                    chain = self._chain(self._first[word])
                    return chain[1 : max(1, len(chain) - 4)]
        return []

    def _chain(self, synset: str) -> list[str]:
        chain: list[str] = []
        while synset in self._synsets:
            lemma, kinds = self._synsets[synset]
            chain.append(lemma)
            synset = kinds[0] if kinds else ""
        return chain
