"""Images on disk: a name is a link to its current generation, or a plain folder an admin put there.

    STATE/<image>                       -> .generations/<image>/<stamp>
    STATE/.generations/<image>/<stamp>       the tree (on btrfs a subvolume)
    STATE/.generations/<image>/<stamp>.json  what is known of it, written when it is complete
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any, NamedTuple

from ..errors import HostError
from ..names import is_image_name

GENERATIONS = ".generations"


class Image(NamedTuple):
    """An image as a machine starts from it: ``root`` is the path of its current generation's tree.

    ``generation`` is the generation's stamp, or empty for a plain folder.
    """

    name: str
    generation: str
    root: str


def names(state_folder: str) -> list[str]:
    """Return the names of the images there, sorted."""
    try:
        entries = os.listdir(state_folder)
    except FileNotFoundError:
        return []
    return sorted(name for name in entries if is_image_name(name) and os.path.isdir(os.path.join(state_folder, name)))


def find(state_folder: str, name: str) -> Image | None:
    """Return the image ``name`` with the generation published now, or None where there is none.

    The link is read once: what is published a moment later does not mix in.
    """
    if not is_image_name(name):
        return None
    path = os.path.join(state_folder, name)
    try:
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            return Image(name, "", path) if os.path.isdir(path) else None
        root = os.path.normpath(os.path.join(state_folder, os.readlink(path)))
    except FileNotFoundError:
        return None
    if not os.path.isdir(root):
        raise HostError(
            f"the image {name} is broken: {root} is not there",
            advice=f"make it anew: nspawn-runner chroot-remove {name}; nspawn-runner chroot-create {name}",
        )
    ours = os.path.dirname(root) == generations_folder(state_folder, name)
    return Image(name, os.path.basename(root) if ours else "", root)


def generations_folder(state_folder: str, name: str) -> str:
    """Return the folder that holds the generations of the image ``name``."""
    return os.path.join(state_folder, GENERATIONS, name)


def facts(image: Image) -> dict[str, Any]:
    """Return what was written down of the image's generation when it was made; empty for a plain folder."""
    try:
        with open(f"{image.root}.json", "rb") as file:
            known = json.load(file)
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
