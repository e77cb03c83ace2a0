"""Find and remove leftovers of interrupted image changes, and generations that nobody needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial

from ..errors import HostError
from ..host import files, locks, trees
from ..host.leftover import Leftover
from ..names import is_image_name
from ..settings import paths
from . import generations, store
from .ansible import containers, play

# In the folder of generations, on the same file system: entries moved here are removed without a lock.
_REMOVED = ".removed"


def find(state_folder: str, used_roots: Callable[[], Collection[str] | None]) -> Iterator[Leftover]:
    """Yield half-made and half-removed trees, unpublished and old generations, and folders of killed maintenance.

    ``used_roots`` returns the trees that machines use, or None if unknown: then complete generations stay.
    """
    trash = _trash(state_folder)
    for entry in _entries(trash):
        path = os.path.join(trash, entry)
        yield Leftover("image", entry, "half removed", [path], partial(_empty, state_folder, path))
    for name in _names(state_folder):
        look = partial(_all_left, state_folder, name, used_roots)
        there = look()
        if there and not locks.is_held(store.lock_file(state_folder, name)):
            for path, why in there.items():
                tree = [path] if os.path.isdir(path) and not os.path.islink(path) else []
                yield Leftover("image", _shown(name, path), why, tree, partial(_remove, state_folder, name, path, look))


def remove_files(state_folder: str) -> None:
    """Remove the locks and the empty folders of killed processes."""
    folder = os.path.join(state_folder, paths.GENERATIONS)
    for entry in _entries(folder):
        if is_image_name(entry) and os.path.isdir(os.path.join(folder, entry)):
            if not _entries(os.path.join(folder, entry)):
                with suppress(locks.Busy), generations.changing(state_folder, entry, wait_seconds=0):
                    pass  # it removes the folder on exit
        elif entry.startswith(".") and entry.endswith(".lock"):
            locks.remove_unheld(os.path.join(folder, entry))
    containers.remove_files()


def _names(state_folder: str) -> list[str]:
    """Return the names of images that have generations or a maintenance folder."""
    there = {name for name in store.known_names(state_folder) if _entries(store.generations_folder(state_folder, name))}
    return sorted(there | {*_entries(play.FOLDER)})


def _all_left(state_folder: str, name: str, used_roots: Callable[[], Collection[str] | None]) -> dict[str, str]:
    """Return the path of everything of the image ``name`` that nobody needs, and why."""
    folder = store.generations_folder(state_folder, name)
    playing = os.path.join(play.FOLDER, name)
    found = {playing: "maintenance was killed"} if os.path.isdir(playing) else {}
    found |= {os.path.join(folder, entry): "half made" for entry in _entries(folder) if _is_half_made(folder, entry)}
    used = used_roots()
    if used is None:
        return found
    try:
        image = store.find(state_folder, name)
    except HostError:
        return found  # its link is broken: someone may want an older generation back
    needed = {*used, image.root if image else ""}
    for entry in _entries(folder):
        path = os.path.join(folder, entry)
        bare = store.is_stamp(entry) and os.path.isdir(path) and not os.path.exists(f"{path}.json")
        if bare and not os.path.islink(path) and path not in needed:
            found[path] = "half removed"
    if image is None:
        there = [each for each in store.generations(state_folder, name) if each.root not in used]
        return found | {each.root: "never published" for each in there}
    return found | {each.root: "old" for each in generations.old(state_folder, name, used)}


def _is_half_made(folder: str, entry: str) -> bool:
    """Return whether ``entry`` only exists during a change."""
    path = os.path.join(folder, entry)
    if entry in {".link", ".removed"} or (entry.startswith(".") and store.is_stamp(entry[1:17])):
        return True
    if not store.is_stamp(entry[:16]):
        return False
    is_facts = entry[16:].startswith(".json")  # or a draft of them
    return os.path.islink(path) or (is_facts and (entry[16:] != ".json" or not os.path.isdir(path[: -len(".json")])))


def _remove(state_folder: str, name: str, path: str, look: Callable[[], dict[str, str]]) -> bool:
    """Move ``path`` away while nobody changes the image, then remove it, which may take long."""
    with generations.changing(state_folder, name, wait_seconds=0):
        if path not in look():
            return False
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
            return True
        containers.end(path)  # a killed Ansible's; it may be about to end itself
        if os.path.dirname(path) == play.FOLDER:
            files.remove_tree(path)
            return True
        trash = _trash(state_folder)
        files.make_private_folder(trash)
        hidden = os.path.join(trash, f"{name}-{os.path.basename(path).lstrip('.')}")
        trees.remove(hidden)
        with locks.unkept(path) as is_unkept:
            if not is_unkept:
                return False
            os.rename(path, hidden)
        files.remove_file(f"{path}.json")
    return _empty(state_folder, hidden)


def _empty(state_folder: str, hidden: str) -> bool:
    trees.remove(hidden)
    files.remove_folder(_trash(state_folder))
    return True


def _trash(state_folder: str) -> str:
    return os.path.join(state_folder, paths.GENERATIONS, _REMOVED)


def _shown(name: str, path: str) -> str:
    entry = os.path.basename(path)
    return name if entry == name else f"{name} {entry}"


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
