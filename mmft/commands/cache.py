"""`mmft cache`: what the store of frozen work holds and what it saved; verifies and clears it."""

from __future__ import annotations

import time
from pathlib import Path

from mmft import clock
from mmft.cache.store import cache_folder, entries, remove
from mmft.cache.summary import Summary, damaged_shards, summary_of
from mmft.config.compose import Composed
from mmft.config.schema.cache import CacheCommandConfig
from mmft.errors import ExitCode, UserError
from mmft.files import in_units
from mmft.reports.aligned import aligned

_HEADER = ["entry", "encoder", "layers", "kept", "rows", "size", "last used", "saved"]
_SHOWN = 8  # characters of an entry's name


def cache(composed: Composed) -> int:
    """Prints one line per entry, after verifying or clearing what was asked for.

    Returns:
        The exit code, 0 also if there are no entries.

    Raises:
        UserError: there is no entry of that name.
    """
    config: CacheCommandConfig = composed.config
    store = cache_folder(config.paths.cache)
    if store.exists() and not store.is_dir():
        raise UserError(f"paths.cache={store}: it is a file. Type the folder of the store")
    found = sorted(map(summary_of, entries(store)), key=lambda one: one.used, reverse=True)
    if config.clear is not None:
        wanted = [config.clear] if isinstance(config.clear, str) else config.clear
        chosen = found if wanted == ["all"] else [_named(found, name) for name in wanted]
        for one in chosen:
            try:
                remove(one.folder)
            except OSError as error:
                raise UserError(f"{error.filename or one.folder}: cannot be removed: {error.strerror}") from error
        print(f"removed {len(chosen)} entries of {store}, {in_units(sum(one.bytes for one in chosen))}")
        return ExitCode.DONE
    if config.verify:
        for one in found:
            _verify(one.folder)
        found = [summary_of(one.folder) for one in found]
        print(f"verified {sum(one.rows for one in found)} rows")
    if not found:
        print(f"{store} is empty.")
        return ExitCode.DONE
    print(aligned([_HEADER, *map(_line, found)], right=(4, 5, 7)))
    print(f"{store}: {in_units(sum(one.bytes for one in found))}")
    return ExitCode.DONE


def _named(found: list[Summary], name: str) -> Summary:
    """The entry whose name begins so."""
    fitting = [one for one in found if one.folder.name.startswith(name)]
    if len(fitting) != 1:
        raise UserError(
            f"clear={name}: {'several entries begin' if fitting else 'no entry begins'} with this. "
            "`mmft cache` lists them; clear=all removes all"
        )
    return fitting[0]


def _verify(entry: Path) -> None:
    """Removes the damaged shards of an entry.

    Raises:
        UserError: one cannot be read or removed.
    """
    try:
        damaged = damaged_shards(entry)
    except OSError as error:
        raise UserError(f"{error.filename or entry}: cannot be read: {error.strerror}") from error
    for path in damaged:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{path}: is damaged, and cannot be removed: {error.strerror}") from error
    if damaged:
        print(f"{entry}: {len(damaged)} damaged shards were removed; their rows are computed again when needed")


def _line(one: Summary) -> list[str]:
    about = one.about
    return [
        one.folder.name[:_SHOWN],
        str(about.get("encoder", "?")).rsplit("/", 1)[-1],
        str(about.get("layers", "?")),
        "+".join(about.get("kept", [])),
        str(one.rows),
        in_units(one.bytes),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used)),
        clock.in_words(one.saved),
    ]
