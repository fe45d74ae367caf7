"""`cache`: whether what frozen layers compute of each row is kept."""

from __future__ import annotations

from dataclasses import dataclass

from mmft.config.fields import field
from mmft.config.registry import OptionConfig, option


@dataclass(kw_only=True)
class CacheConfig(OptionConfig):
    """`cache`: whether what frozen layers compute of each row is kept in `paths.cache`, for later epochs and runs."""


@dataclass(kw_only=True)
class StoringConfig(CacheConfig):
    """`cache`: what is kept."""

    limit: float = field(20.0, gt=0)
    """Size of `paths.cache` in GB. What was used longest ago is removed for new values; what does not fit is computed
    each time."""


@option("cache", "auto")
@dataclass(kw_only=True)
class AutoCacheConfig(StoringConfig):
    """Keeps what takes longer to compute in each epoch than to read, by measuring both; says what was decided."""


@option("cache", "always")
@dataclass(kw_only=True)
class AlwaysCacheConfig(StoringConfig):
    """Keeps all that does not change in training."""


@option("cache", "never")
@dataclass(kw_only=True)
class NeverCacheConfig(CacheConfig):
    """Computes everything in each epoch. In float32 on a CPU the result is the same to the last bit."""
