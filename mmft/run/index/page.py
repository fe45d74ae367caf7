"""The page of `mmft search ... out=page.html`: each query, and the images and texts that were found for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby, islice
from typing import Any

from mmft.config.schema.data import DataConfig
from mmft.data.bad_rows import row_named
from mmft.data.splitting.splits import Split
from mmft.reports.page import html
from mmft.reports.page.row_cards import Thumbnails, row_card
from mmft.run.index.index import Index

MOST_QUERIES = 100


def search_page(index: Index, queries: Split, found: Iterable[Mapping[str, Any]], data: DataConfig) -> str:
    """The page, of the first queries.

    Args:
        index: that was searched.
        queries: the rows that were searched for.
        found: of `Index.found`.
        data: how images are read.
    """
    thumbnails = Thumbnails(data)
    groups = groupby(found, lambda row: row["query"])
    shown = [_query(queries, query, list(rows), thumbnails) for query, rows in islice(groups, MOST_QUERIES)]
    left = len(queries) - len(shown)
    told = f"Among {len(index):,} rows, by the cosine of embeddings, the most similar first."
    more = f"The first {len(shown):,} of {len(queries):,} queries." if left else ""
    out = f"{index.facts.bad:,} more rows cannot be used." if index.facts.bad else ""
    return html.document("Search", "Search", html.paragraph(told, out, more) + "".join(shown))


def _query(queries: Split, query: int, found: list[Mapping[str, Any]], thumbnails: Thumbnails) -> str:
    text, image = queries.table.text(query), queries.table.image(query)
    title = text or f"Image {queries.table.id(query)}" if len(queries) > 1 or text else "An image"
    asked = row_card(thumbnails.show(image), ["query"], "", "") if image is not None else ""
    if found[0]["error"] is not None:
        return html.section(title, html.paragraph(f"Not searched: {found[0]['error']}."), asked)
    cards = [asked] if asked else []
    for one in found:
        place = row_named(one["row"], one["id"])
        said = [f"{one['rank']}: {one['score']:.3f}"]
        cards.append(row_card(thumbnails.show(one["image"]), said, one["text"] or "", place))
    return html.section(title, f'<div class="rows">{"".join(cards)}</div>\n')
