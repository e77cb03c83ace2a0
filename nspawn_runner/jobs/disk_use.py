"""How much disk space images, machines, caches and builds take in the state folder."""

from __future__ import annotations

import os

from ..host.leftover import size_bytes
from ..images import store
from ..machines import records, status
from ..settings import paths

_SECONDS = 60


def by_kind(state_folder: str) -> dict[str, int]:
    """Return the bytes on disk by kind: images, machines, caches, builds; what takes over 60 s is left out.

    Of images it is what was counted when each generation was made: what generations share is counted for each.
    """
    sizes = {
        "images": _of_images(state_folder),
        "machines": _of_machines(),
        "caches": _of_folder(f"{state_folder}/{paths.CACHES}"),
        "builds": _of_folder(f"{state_folder}/{paths.BUILDS}"),
    }
    return {kind: size for kind, size in sizes.items() if size is not None}


def _of_folder(path: str) -> int | None:
    return size_bytes([path], seconds=_SECONDS) if os.path.isdir(path) else 0


def _of_images(state_folder: str) -> int:
    generations = [each for name in store.known_names(state_folder) for each in store.generations(state_folder, name)]
    return sum(store.facts(each).get("size_bytes", 0) for each in generations)


def _of_machines() -> int:
    return sum(status.disk_bytes(record, seconds=_SECONDS) or 0 for record in records.all_records())
