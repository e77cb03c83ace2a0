"""How an image changes: a hidden draft is made, completed, and published in one step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..errors import HostError
from ..host import files, locks, signals, system_calls, trees
from ..settings import paths
from . import store
from .ansible import containers

KEPT = 3
_NEW = ".new"


class Draft(NamedTuple):
    """A generation in the making: ``root`` is the hidden path of its tree until it is complete."""

    name: str
    stamp: str
    root: str


@contextmanager
def changing(state_folder: str, name: str, *, wait_seconds: float = 1.0) -> Iterator[None]:
    """Lock out other changes of the image ``name``; raises locks.Busy if one is running after ``wait_seconds``."""
    folder = store.generations_folder(state_folder, name)
    paths.keep_others_out(state_folder)
    files.make_private_folder(os.path.dirname(folder))
    with locks.locked(store.lock_file(state_folder, name), what=f"the image {name}", wait_seconds=wait_seconds):
        files.make_private_folder(folder)
        try:
            yield
        finally:
            files.remove_folder(folder)  # only if empty: the image is gone, or was not created


@contextmanager
def draft(state_folder: str, name: str) -> Iterator[Draft]:
    """Yield where to make a new generation of ``name``; remove it on exit unless completed.

    Call it under ``changing``, so that everything hidden here is a leftover of a killed process: it is removed.
    """
    remove_leftovers(state_folder, name)
    stamp = _unused_stamp(state_folder, name)
    made = Draft(name, stamp, os.path.join(store.generations_folder(state_folder, name), f".{stamp}{_NEW}"))
    try:
        with trees.full_disk_told(state_folder):
            yield made
    finally:
        with signals.held():
            trees.remove(made.root)
            if not os.path.lexists(_completed(made)):
                files.remove_file(f"{_completed(made)}.json")


def complete(state_folder: str, made: Draft, known: Mapping[str, Any]) -> store.Image:
    """Turn the draft into a generation with the facts ``known`` and return it; it is not published yet.

    Adds the time to the facts. Everything is on disk before the generation appears under its name.
    """
    root = _completed(made)
    _write_facts(root, known, max(time.time(), _seconds(made.stamp)))
    trees.write_out(state_folder)
    os.rename(made.root, root)
    return store.Image(made.name, made.stamp, root)


def publish(state_folder: str, image: store.Image) -> None:
    """Make ``image``, in one step, the generation that jobs get from now on.

    A former plain folder becomes the previous generation; raises HostError when that is impossible.
    Sizes are added to the facts afterwards: counting takes time for every file, and no job should wait for it.
    """
    path = os.path.join(state_folder, image.name)
    not_counted = [image]
    if os.path.isdir(path) and not os.path.islink(path):
        not_counted.append(_adopt(state_folder, image))
    link = os.path.join(os.path.dirname(image.root), ".link")
    files.remove_file(link)
    os.symlink(os.path.relpath(image.root, state_folder), link)
    os.rename(link, path)
    for each in not_counted:
        if "size_bytes" not in store.facts(each):
            note(each, {"size_bytes": trees.size_bytes(each.root)})


def drop_old(state_folder: str, name: str, used_roots: Collection[str]) -> list[str]:
    """Remove the ``old`` generations that nobody is reading; return the stamps removed."""
    return [each.generation for each in old(state_folder, name, used_roots) if _remove_generation(each.root)]


def old(state_folder: str, name: str, used_roots: Collection[str]) -> list[store.Image]:
    """Return the generations except those in ``used_roots``, the current one, the one before it, and the newest.

    The facts of the current one give the number of newest under ``keep``; the default is three.
    """
    if os.path.join(state_folder, name) in used_roots:
        return []  # a machine started from a plain folder that is now a generation of unknown name
    current = store.find(state_folder, name)
    known = store.facts(current) if current else {}
    # A job may just be starting from the previously current one.
    spared = {known.get("base"), current.generation if current else ""}
    return [
        each
        for each in store.generations(state_folder, name)[known.get("keep", KEPT) :]
        if each.root not in used_roots and each.generation not in spared
    ]


def note(image: store.Image, known: Mapping[str, Any]) -> None:
    """Add ``known``, found out later, to the facts of a generation; its tree is unchanged."""
    there = store.facts(image)
    if there:
        files.write_atomically(f"{image.root}.json", _text({**there, **known}), on_disk=True)


def remove_leftovers(state_folder: str, name: str) -> None:
    """Remove what killed processes left of ``name``: half-made trees, facts without a tree, drafts of facts."""
    folder = store.generations_folder(state_folder, name)
    for entry in os.listdir(folder):
        path = os.path.join(folder, entry)
        if os.path.islink(path) or (".json." in entry and os.path.isfile(path)):
            files.remove_file(path)
        elif entry.startswith("."):
            containers.end(path)  # a killed Ansible's; it may be about to end itself
            trees.remove(path)
        elif entry.endswith(".json") and not os.path.isdir(path.removesuffix(".json")):
            files.remove_file(path)


def remove_unpublished(state_folder: str, name: str) -> None:
    """Remove generations whose image is gone or was never published; call it only when there is no image."""
    for each in store.generations(state_folder, name):
        _remove_generation(each.root)


def remove(state_folder: str, name: str) -> None:
    """Remove the image ``name``: first its link, which jobs see, then its generations and their facts.

    Call it under ``changing``. Raises locks.Busy when a generation is being read.
    """
    path = os.path.join(state_folder, name)
    folder = store.generations_folder(state_folder, name)
    for each in store.generations(state_folder, name):
        with locks.unkept(each.root) as is_unkept:
            if not is_unkept:
                raise locks.Busy(
                    f"the image {name} is being exported or cloned",
                    facts=f"generation: {each.generation}",
                    advice="try again when that has finished",
                )
    if os.path.isdir(path) and not os.path.islink(path):
        hidden = os.path.join(folder, ".removed")
        trees.remove(hidden)
        _rename_folder(path, hidden)
    else:
        files.remove_file(path)
    remove_unpublished(state_folder, name)
    remove_leftovers(state_folder, name)


def _completed(made: Draft) -> str:
    return os.path.join(os.path.dirname(made.root), made.stamp)


def _remove_generation(root: str) -> bool:
    """Remove a generation so that it never looks complete meanwhile, and leftovers are recognizable.

    Return False if it stays because something is reading it.
    """
    hidden = os.path.join(os.path.dirname(root), f".{os.path.basename(root)}.old")
    with locks.unkept(root) as is_unkept:
        if is_unkept:
            os.rename(root, hidden)
    if is_unkept:
        files.remove_file(f"{root}.json")
        trees.remove(hidden)
    return is_unkept


def _adopt(state_folder: str, new: store.Image) -> store.Image:
    """Turn the plain folder that ``new`` replaces into a generation and a link to it, and return it.

    The image never disappears: the link is made at the folder's future path; then the two are exchanged. Whatever the
    folder's date, newer generations have later stamps.
    """
    name = new.name
    path = os.path.join(state_folder, name)
    folder = store.generations_folder(state_folder, name)
    oldest = store.generations(state_folder, name)[-1].generation
    stamp = _stamp(max(0, min(os.stat(path).st_mtime, _seconds(oldest) - 1)))
    while os.path.lexists(os.path.join(folder, stamp)):
        stamp = _stamp(_seconds(stamp) - 1)
    root = os.path.join(folder, stamp)
    _write_facts(root, {"builder": "by hand"}, _seconds(stamp))
    os.symlink(os.path.relpath(root, state_folder), root)
    try:
        system_calls.exchange(path, root)
    except OSError as error:
        files.remove_file(root)
        files.remove_file(f"{root}.json")
        raise _immovable(path, error) from error
    return store.Image(name, stamp, root)


def _rename_folder(path: str, new_path: str) -> None:
    try:
        os.rename(path, new_path)
    except OSError as error:
        raise _immovable(path, error) from error


def _immovable(path: str, error: OSError) -> HostError:
    return HostError(
        f"the folder {path} cannot be moved",
        facts=str(error.strerror),
        advice="a mount point cannot change: unmount it first" if os.path.ismount(path) else "",
    )


def _write_facts(root: str, known: Mapping[str, Any], created: float) -> None:
    """Write the facts of a generation without its size: that of the original would be wrong."""
    content = {**known, "created": round(created), "complete": True}
    content.pop("size_bytes", None)
    files.write_atomically(f"{root}.json", _text(content))


def _text(known: Mapping[str, Any]) -> bytes:
    return json.dumps(known, indent=1).encode() + b"\n"


def _unused_stamp(state_folder: str, name: str) -> str:
    """Return the stamp of now, or of the second after the newest generation's if that is later."""
    seconds = time.time()
    for newest in store.generations(state_folder, name)[:1]:
        seconds = max(seconds, _seconds(newest.generation) + 1, store.facts(newest).get("created", 0) + 1)
    return _stamp(seconds)


def _stamp(seconds: float) -> str:
    return time.strftime(store.STAMP, time.gmtime(seconds))


def _seconds(stamp: str) -> float:
    from calendar import timegm

    return timegm(time.strptime(stamp, store.STAMP))
