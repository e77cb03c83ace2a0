"""Images on disk: a name is a link to its current generation, or a plain folder that an admin put there.

    STATE/<image>                       -> .generations/<image>/<stamp>
    STATE/<alias>                       -> <image>
    STATE/.generations/<image>/<stamp>       the tree (on btrfs a subvolume)
    STATE/.generations/<image>/<stamp>.json  what is known of it, written when it is complete
    STATE/.generations/<image>/.<stamp>.new  a tree being made, or what a killed process left of one
    STATE/.generations/.<image>.lock         held by whoever changes the image
"""

from __future__ import annotations

import errno
import json
import os
import stat

from ..errors import HostError
from ..light_typing import Any, NamedTuple
from ..names import is_image_name
from ..settings.paths import GENERATIONS

STAMP = "%Y%m%dT%H%M%SZ"
_FACTS = {"aliases": list, "keep": int, "size_bytes": int, "created": int, "built": int, "suite": str, "base": str,
          "inputs": dict}  # fmt: skip


class Image(NamedTuple):
    """An image as a machine starts from it: ``root`` is the path of its current generation's tree.

    ``generation`` is the generation's stamp, or empty for a plain folder.
    """

    name: str
    generation: str
    root: str


def names(state_folder: str) -> list[str]:
    """Return the names of the images there, sorted; also of one that the disk cannot read just now."""
    entries = _entries(state_folder)
    return sorted(name for name in entries if is_image_name(name) and _may_be_folder(os.path.join(state_folder, name)))


def find(state_folder: str, name: str) -> Image | None:
    """Return the image ``name``, or the one that it is an alias of, with the generation published now, or None.

    The link is read once: what is published a moment later does not mix in.
    """
    if not is_image_name(name):
        return None
    name = own_name(state_folder, name)
    path = os.path.join(state_folder, name)
    try:
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            return Image(name, "", path) if _is_folder(path) else None
        root = os.path.normpath(os.path.join(state_folder, os.readlink(path)))
    except FileNotFoundError:
        return None
    if not _is_folder(root):
        raise HostError(
            f"the image {name} is broken: {root} is not there",
            advice=f"make it anew: nspawn-runner chroot-remove {name}; nspawn-runner chroot-create {name}",
        )
    ours = os.path.dirname(root) == generations_folder(state_folder, name)
    return Image(name, os.path.basename(root) if ours else "", root)


def created(image: Image) -> int | None:
    """Return when the tree of ``image`` was made, in epoch seconds; None where that was not written down.

    Of a plain folder it is when something right in it changed last.
    """
    if not image.generation:
        return round(os.stat(image.root).st_mtime)
    known = facts(image).get("created")
    return known if isinstance(known, int) else None


def published(state_folder: str, image: Image) -> int | None:
    """Return when jobs began to get the tree of ``image``, in epoch seconds: the age of its link, if it has one."""
    status = os.lstat(os.path.join(state_folder, image.name))
    return round(status.st_mtime) if stat.S_ISLNK(status.st_mode) else None


def alias_of(state_folder: str, name: str) -> str:
    """Return the image that ``name`` is an alias of, nothing where it is none: a link to a mere name is one."""
    try:
        target = os.readlink(os.path.join(state_folder, name))
    except OSError:
        return ""
    return target if is_image_name(target) else ""


def own_name(state_folder: str, name: str) -> str:
    """Return the name of the image that ``name`` means: the one it is an alias of, else itself."""
    return alias_of(state_folder, name) or name


def generations_folder(state_folder: str, name: str) -> str:
    """Return the folder that holds the generations of the image ``name``."""
    return os.path.join(state_folder, GENERATIONS, name)


def image_of(root: str) -> str:
    """Return the image that the tree ``root`` is a generation of, complete or not; nothing where it is none."""
    folder = os.path.dirname(root)
    return os.path.basename(folder) if os.path.basename(os.path.dirname(folder)) == GENERATIONS else ""


def lock_file(state_folder: str, name: str) -> str:
    """Return the file whose lock keeps changes of the image ``name`` apart; no image's folder can be called so."""
    return os.path.join(state_folder, GENERATIONS, f".{name}.lock")


def generations(state_folder: str, name: str) -> list[Image]:
    """Return the complete generations of the image ``name``, newest first."""
    folder = generations_folder(state_folder, name)
    return [Image(name, stamp, os.path.join(folder, stamp)) for stamp in sorted(_entries(folder), reverse=True)
            if is_stamp(stamp) and os.path.exists(os.path.join(folder, f"{stamp}.json"))]  # fmt: skip


def drafts(state_folder: str, name: str) -> list[Image]:
    """Return the half-made generations of the image ``name``: being made, or left by a killed process."""
    folder = generations_folder(state_folder, name)
    hidden = ((entry, entry[1:].removesuffix(".new")) for entry in sorted(_entries(folder)) if entry.endswith(".new"))
    return [Image(name, stamp, os.path.join(folder, entry)) for entry, stamp in hidden if is_stamp(stamp)]


def known_names(state_folder: str) -> list[str]:
    """Return the names of which there is anything: images, broken links, half-made or left generations; sorted."""
    there = {*_entries(state_folder), *_entries(os.path.join(state_folder, GENERATIONS))}
    return sorted(
        name
        for name in there
        if is_image_name(name)
        and (
            (os.path.islink(os.path.join(state_folder, name)) and not os.path.isfile(os.path.join(state_folder, name)))
            or os.path.isdir(os.path.join(state_folder, name))
            or _entries(generations_folder(state_folder, name))
        )
    )


def is_stamp(text: str) -> bool:
    """Return whether ``text`` is a generation's stamp: the UTC second of its making, such as 20261121T093015Z."""
    return len(text) == 16 and text[8] == "T" and text[15] == "Z" and f"{text[:8]}{text[9:15]}".isdecimal()


def _is_folder(path: str) -> bool:
    """Return whether ``path`` is a folder; raises OSError where a disk keeps that from being known.

    os.path.isdir would say no then, and a job be blamed for an image that does not exist.
    """
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return False
        raise


def _may_be_folder(path: str) -> bool:
    try:
        return _is_folder(path)
    except OSError:
        return True


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def facts(image: Image) -> dict[str, Any]:
    """Return what was written down of the image's generation when it was made; empty for a plain folder.

    What cannot be read is left out, and so is a value of another type than it must have.
    """
    try:
        with open(f"{image.root}.json", "rb") as file:
            known = json.load(file)
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: value for key, value in known.items() if type(value) is _FACTS.get(key, type(value))}
