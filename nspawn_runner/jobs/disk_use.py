"""How much disk space images, machines, caches and builds take in the state folder."""

from __future__ import annotations

import os
import re
import time

from ..host.leftover import size_bytes
from ..images import store
from ..machines import records, status
from ..settings import paths

_SECONDS = 60
_KEPT_BUILDS = re.compile(r".+-builds[0-9]+")


def by_kind(state_folder: str) -> dict[str, int]:
    """Return the bytes on disk by kind: images, machines, caches, builds; what is not counted in a minute is left out.

    Of images it is what was counted when each generation was made: what generations share is counted for each. Builds
    are those kept for a project's next job, and the folders of exec.
    """
    deadline = time.monotonic() + _SECONDS
    folder = f"{state_folder}/{paths.CACHES}"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    kept = [name for name in names if _KEPT_BUILDS.fullmatch(name)]
    workspaces = [f"{state_folder}/{paths.BUILDS}"] if os.path.isdir(f"{state_folder}/{paths.BUILDS}") else []
    sizes = {
        "images": _of_images(state_folder),
        "machines": _of_machines(deadline),
        "caches": _of_folders([f"{folder}/{name}" for name in names if name not in kept], deadline),
        "builds": _of_folders([*workspaces, *(f"{folder}/{name}" for name in kept)], deadline),
    }
    return {kind: size for kind, size in sizes.items() if size is not None}


def _of_images(state_folder: str) -> int:
    generations = [each for name in store.known_names(state_folder) for each in store.generations(state_folder, name)]
    return sum(store.facts(each).get("size_bytes", 0) for each in generations)


def _of_machines(deadline: float) -> int | None:
    total = 0
    for record in records.all_records():
        size = status.disk_bytes(record, seconds=max(0.1, deadline - time.monotonic()))
        if size is None and os.path.isdir(record.layer):
            return None
        total += size or 0
    return total


def _of_folders(folders: list[str], deadline: float) -> int | None:
    total = 0
    for folder in folders:
        size = size_bytes([folder], seconds=max(0.1, deadline - time.monotonic()))
        if size is None and os.path.exists(folder):
            return None
        total += size or 0
    return total
