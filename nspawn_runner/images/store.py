"""Images on disk: a name is a link to its current generation, or a plain folder that an administrator put there.

    STATE/<image>                       -> .generations/<image>/<stamp>
    STATE/<alias>                       -> <image>
    STATE/.generations/<image>/<stamp>       the tree (on btrfs a subvolume)
    STATE/.generations/<image>/<stamp>.json  the facts about it, written when it is complete
    STATE/.generations/<image>/.<stamp>.new  a tree in the making, or a killed process's leftover
    STATE/.generations/.<image>.lock         held while a process changes the image
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
    """An image that a machine can start from: ``root`` is the path of its current generation's tree.

    ``generation`` is the generation's stamp, or empty for a plain folder.
    """

    name: str
    generation: str
    root: str


def names(state_folder: str) -> list[str]:
    """Return the sorted names of the images, including any that the disk currently cannot read."""
    entries = _entries(state_folder)
    return sorted(name for name in entries if is_image_name(name) and _may_be_folder(os.path.join(state_folder, name)))


def find(state_folder: str, name: str) -> Image | None:
    """Return the image that ``name`` means, directly or as an alias, with its current generation, or None.

    Reads the link only once, so that a generation published a moment later does not mix in.
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
            f"the image {name} is broken: {root} is missing",
            advice=f"create it again: nspawn-runner chroot-remove {name}; nspawn-runner chroot-create {name}",
        )
    ours = os.path.dirname(root) == generations_folder(state_folder, name)
    return Image(name, os.path.basename(root) if ours else "", root)


def created(image: Image) -> int | None:
    """Return when the tree of ``image`` was created, in epoch seconds; None if that was not recorded.

    For a plain folder, this is its modification time.
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
    """Return the image that ``name`` is an alias of, or an empty string; an alias is a link to a bare name."""
    try:
        target = os.readlink(os.path.join(state_folder, name))
    except OSError:
        return ""
    return target if is_image_name(target) else ""


def own_name(state_folder: str, name: str) -> str:
    """Return the name of the image that ``name`` means: its target if it is an alias, else itself."""
    return alias_of(state_folder, name) or name


def generations_folder(state_folder: str, name: str) -> str:
    """Return the folder that holds the generations of the image ``name``."""
    return os.path.join(state_folder, GENERATIONS, name)


def image_of(root: str) -> str:
    """Return the image that the tree ``root`` is a generation of, complete or not; empty if it is none."""
    folder = os.path.dirname(root)
    return os.path.basename(folder) if os.path.basename(os.path.dirname(folder)) == GENERATIONS else ""


def lock_file(state_folder: str, name: str) -> str:
    """Return the lock file for changes of the image ``name``; no image's folder can have this name."""
    return os.path.join(state_folder, GENERATIONS, f".{name}.lock")


def generations(state_folder: str, name: str) -> list[Image]:
    """Return the complete generations of the image ``name``, newest first."""
    folder = generations_folder(state_folder, name)
    return [Image(name, stamp, os.path.join(folder, stamp)) for stamp in sorted(_entries(folder), reverse=True)
            if is_stamp(stamp) and os.path.exists(os.path.join(folder, f"{stamp}.json"))]  # fmt: skip


def drafts(state_folder: str, name: str) -> list[Image]:
    """Return the incomplete generations of the image ``name``: in the making, or left by a killed process."""
    folder = generations_folder(state_folder, name)
    hidden = ((entry, entry[1:].removesuffix(".new")) for entry in sorted(_entries(folder)) if entry.endswith(".new"))
    return [Image(name, stamp, os.path.join(folder, entry)) for entry, stamp in hidden if is_stamp(stamp)]


def known_names(state_folder: str) -> list[str]:
    """Return the sorted names of all images, broken links, and incomplete or left-over generations."""
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
    """Return whether ``text`` is a generation's stamp: the UTC second of its creation, such as 20261121T093015Z."""
    return len(text) == 16 and text[8] == "T" and text[15] == "Z" and f"{text[:8]}{text[9:15]}".isdecimal()


def _is_folder(path: str) -> bool:
    """Return whether ``path`` is a folder; raises OSError when a disk error hides that.

    os.path.isdir would then return False, and a job would be blamed for a missing image.
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
    """Return the recorded facts of the image's generation; empty for a plain folder.

    Leaves out what cannot be read, and values of the wrong type.
    """
    try:
        with open(f"{image.root}.json", "rb") as file:
            known = json.load(file)
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {key: value for key, value in known.items() if type(value) is _FACTS.get(key, type(value))}
