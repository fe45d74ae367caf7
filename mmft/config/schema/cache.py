"""`cache`: whether what frozen layers compute of each row is kept; and `mmft cache`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmft.config.fields import field
from mmft.config.registry import section


@dataclass(kw_only=True)
class CacheConfig:
    """`cache`: whether what frozen layers compute of each row is kept in `paths.cache`, for later epochs and runs."""

    keep: Literal["auto", "always", "never"] = "auto"
    """`auto`: what takes longer to compute in each epoch than to read, by measuring both; `always`: all that does not
    change in training; `never`: nothing. In float32 on a CPU the result is the same to the last bit."""
    limit: float = field(20.0, gt=0, not_with={"keep==never": "leave it out"})
    """Size of `paths.cache` in GB. What was used longest ago is removed for new values; what does not fit is computed
    in each epoch."""


@section("cache", "auto")
@dataclass(kw_only=True)
class TrainingCacheConfig(CacheConfig):
    """`cache` of training."""

    dtype: Literal["computed", "float16", "int8"] = "computed"
    """How values are kept: as computed, exactly; in `float16`, half the size of float32; in `int8`, a quarter, each
    token's vector with a scale of its own. Whether a row is kept or computed, its values are rounded alike, also when
    the finished model is used."""
    views: int | None = field(None, ge=1)
    """How many augmentations there are of each training image (`data.augment`), used in turn from epoch to epoch, so
    that they can be kept; null: a new one in each epoch, which cannot."""


@dataclass(kw_only=True)
class CachePathsConfig:
    """`paths` of `mmft cache`."""

    cache: str | None = None
    """Folder of what frozen layers compute; null: `mmft` in `$XDG_CACHE_HOME`, or in `~/.cache`."""


@dataclass(kw_only=True)
class CacheCommandConfig:
    """Everything that `mmft cache` reads."""

    verify: bool = False
    """Read everything, and remove the shards that are damaged; their rows are computed again when needed."""
    clear: str | list[str] | None = field(None, not_with={"verify": "type one of them"})
    """Entries to remove, by the beginnings of their names, or `all`; null: none."""
    paths: CachePathsConfig = field(factory=CachePathsConfig)
    """Where they are."""
