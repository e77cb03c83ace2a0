"""Caches of projects: a folder per scope in the state folder, beside a file whose time is that of the last use."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial

from ..host import files, locks, trees
from ..light_typing import TYPE_CHECKING, NamedTuple
from ..machines import records
from ..settings import paths
from ..settings.paths import RUN_FOLDER

if TYPE_CHECKING:
    from ..host.leftover import Leftover
    from ..settings.tables import Gc

_SCOPE = re.compile(r"[\w.-]+-[0-9]+-(?:un)?protected(?:-[\w.-]+)?")
_REMOVED = ".removed-"
# A prepare that has just taken a cache may not have written its record yet.
_GRACE_SECONDS = 3600


class _Cache(NamedTuple):
    path: str
    used: float


def prefix(server: str, project: str) -> str:
    """Return the prefix of the scopes of a project's caches."""
    return f"{''.join(char if char.isalnum() or char in '.-' else '_' for char in server)}-{project}-"


def use(state_folder: str, scope: str) -> str:
    """Return the folder of the cache ``scope``, created if missing, and note that it is used now."""
    folder = f"{state_folder}/{paths.CACHES}/{scope}"
    files.make_private_folder(os.path.dirname(folder))
    files.make_private_folder(RUN_FOLDER)
    with _locked():
        os.makedirs(folder, mode=0o755, exist_ok=True)
        # In our own file, as a job can set the folder's times.
        with suppress(OSError), open(f"{folder}.used", "wb"):
            os.utime(f"{folder}.used")
    return folder


def claim_builds(state_folder: str, scope: str, taken: Collection[str]) -> str:
    """Return the first folder for builds of ``scope`` that is none of ``taken``, created if missing."""
    folder = f"{state_folder}/{paths.CACHES}/{scope}-builds"
    number = next(number for number in range(len(taken) + 1) if f"{folder}{number}" not in taken)
    return use(state_folder, f"{scope}-builds{number}")


def find_leftovers(state_folder: str, limits: Gc) -> Iterator[Leftover]:
    """Yield the caches unused for too long, then the least recently used ones while the rest takes too much space."""
    from ..host.leftover import Leftover, size_bytes
    from ..settings.quantities import size_bytes as number_of

    folder = f"{state_folder}/{paths.CACHES}"
    there = os.listdir(folder) if os.path.isdir(folder) else []
    for name in there:
        if name.startswith(_REMOVED):
            path = f"{folder}/{name}"
            yield Leftover("cache", name.removeprefix(_REMOVED), "half removed", [path], partial(_delete, path))
    caches = sorted((_look(f"{folder}/{name}") for name in there if _is_ours(folder, name)), key=lambda each: each.used)
    stay = []
    for cache in caches:
        days = (time.time() - cache.used) / 86400
        if limits.cache_days and days > limits.cache_days and not _in_use(cache):
            why = f"not used for {int(days)} days"
            yield Leftover("cache", _name(cache), why, [cache.path], partial(_remove, cache))
        else:
            stay.append(cache)
    if limits.cache_size == "infinity":
        return
    sizes = {cache.path: size_bytes([cache.path], seconds=600) or 0 for cache in stay}
    left = sum(sizes.values()) - (number_of(limits.cache_size) or 0)
    for cache in stay:
        if left > 0 and not _in_use(cache):
            left -= sizes[cache.path]
            why = f"caches take more than {limits.cache_size}"
            yield Leftover("cache", _name(cache), why, [cache.path], partial(_remove, cache))


def _is_ours(folder: str, name: str) -> bool:
    path = f"{folder}/{name}"
    return bool(_SCOPE.fullmatch(name)) and os.path.isdir(path) and not os.path.islink(path)


def _name(cache: _Cache) -> str:
    return os.path.basename(cache.path)


def _look(path: str) -> _Cache:
    """Return a cache and its last use; an older version created no file, so the folder's time counts then."""
    for place in (f"{path}.used", path):
        with suppress(FileNotFoundError):
            return _Cache(path, os.stat(place).st_mtime)
    return _Cache(path, time.time())


def _in_use(cache: _Cache) -> bool:
    """Return whether a machine may use the cache: one of its project, or one whose project is unknown."""
    if 0 <= time.time() - cache.used < _GRACE_SECONDS:
        return True
    return any(
        record.state == records.UNREADABLE or _name(cache).startswith(prefix(record.server, record.project))
        for record in records.all_records()
    )


def _remove(cache: _Cache) -> bool:
    """Rename the cache in one step while no prepare can take it, then remove it; return False if it is in use."""
    hidden = f"{os.path.dirname(cache.path)}/{_REMOVED}{_name(cache)}"
    trees.remove(hidden)
    with _locked():
        if not os.path.isdir(cache.path) or _look(cache.path) != cache or _in_use(cache):
            return False
        os.rename(cache.path, hidden)
        files.remove_file(f"{cache.path}.used")
    return _delete(hidden)


def _delete(path: str) -> bool:
    trees.remove(path)
    return True


def _locked() -> AbstractContextManager[None]:
    return locks.locked(f"{RUN_FOLDER}/caches.lock", what="the list of caches")
