"""`mmft index` and `mmft search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.schema.use import UseConfig


@dataclass(kw_only=True)
class IndexConfig(UseConfig):
    """Everything that `mmft index` reads."""

    out: str
    """Folder for the index. The index of other rows that is there is replaced; one of the same rows is kept."""
    kind: Literal["exact", "approximate"] = "exact"
    """How it is searched: `exact` compares the query with every row (a million take less than a second);
    `approximate` follows a graph of neighbours, which takes longer to make, is faster to search, and may miss a row
    (needs usearch: `pip install 'mmft[search]'`)."""


@dataclass(kw_only=True)
class SearchConfig(UseConfig):
    """Everything that `mmft search` reads."""

    query: str | None = field(None, not_with={"queries": "give one query, or a table of them"})
    """What to search for: a text, or the path of an image (recognised by its ending, such as `.png`)."""
    queries: str | None = None
    """A table of queries in place of `query`, with a column of images, of texts, or both: `data.columns.image` and
    `data.columns.text`, or `image` and `text` where these are null."""
    index: str | None = field(None, not_with={"data.path": "it has the rows already. Leave one of them out"})
    """Folder of an index that `mmft index` made with this run; null: the rows of `data.path` (null: the run's own
    table) are embedded first."""
    top: int = field(10, ge=1)
    """How many rows are found for each query."""
    find: Literal["image", "text", "fused"] | None = None
    """What of the rows is compared with the query; null: images for a text and texts for an image, if the run was
    trained to compare them, otherwise what the query is. `fused`: image and text together, as the head reads them."""
    out: str = "-"
    """Output: `-` for CSV on stdout, or a `.csv`, `.jsonl`, `.parquet` or `.html` file; the latter is a page with the
    images."""
