"""`mmft serve` and `mmft demo`: where they listen, and how much they take."""

from __future__ import annotations

from dataclasses import dataclass

from mmft.config.fields import field


@dataclass(kw_only=True)
class AddressConfig:
    """Where a server listens."""

    host: str = "127.0.0.1"
    """Address to listen on; the default is reached from this machine alone. `0.0.0.0`: from every machine that reaches
    this one, without a password."""


@dataclass(kw_only=True)
class ServingConfig(AddressConfig):
    """The keys of `mmft serve`."""

    port: int = field(8000, ge=0, le=65535)
    """Port to listen on; 0: any free one, which is printed."""
    max_batch: int = field(32, ge=1)
    """Rows that the model computes at once, of as many requests as come together."""
    max_wait_ms: float = field(10.0, ge=0)
    """How long the first row of a batch waits for others, in milliseconds, if the model is idle."""
    max_rows: int = field(64, ge=1)
    """Largest number of rows of one request; a larger one is answered with status 413."""
    max_body_mb: float = field(16.0, gt=0)
    """Largest request in MB; a larger one is answered with status 413 and not read to its end."""
    max_queue: int = field(512, ge=1)
    """Largest number of rows that wait for the model; further requests are answered with status 503."""
    max_pending_mb: float = field(256.0, gt=0)
    """Largest size in MB of all requests together that are being received, wait or are computed; further ones are
    answered with status 503."""
    index: str | None = None
    """Folder of an index that `mmft index` made with this run: requests to `/search` find its rows; null: there is no
    `/search`."""
    top: int = field(10, ge=1, only_with="index=FOLDER")
    """How many rows `/search` finds for each query."""


@dataclass(kw_only=True)
class PageConfig(AddressConfig):
    """The keys of `mmft demo`."""

    port: int = field(7860, ge=0, le=65535)
    """Port to listen on; 0: any free one, which is printed."""
    examples: int = field(8, ge=0)
    """How many of the run's test rows (without any, of its validation rows) the page offers as examples."""
    marks: str | None = None
    """File that marks are appended to, `.jsonl`; null: `marks-NAME.jsonl` in the run's folder, by `by`."""
    by: str | None = None
    """Who marks; null: the name of the user that runs the command."""
