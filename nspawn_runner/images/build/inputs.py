"""Files that an image is created from, such as a tarball: when one changes, the image is created again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import HostError


def noted(paths: Iterable[str], known: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each of the files ``paths`` its SHA-256, and metadata that shows cheaply that it is unchanged.

    ``known`` is an earlier result: a file with the same metadata is not read again. Raises HostError.
    """
    found = {}
    for path in paths:
        before = known.get(path)
        try:
            with open(path, "rb") as file:
                there = os.fstat(file.fileno())
                # Only the kernel sets the change time: not even a copied date hides other content.
                seen = [there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns]
                if isinstance(before, dict) and before.get("seen") == seen:
                    found[path] = before
                else:
                    found[path] = {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "seen": seen}
        except OSError as error:
            raise HostError(f"cannot read {path}: {error.strerror}") from None
    return found


def changed(paths: Iterable[str], known: Mapping[str, Any]) -> list[str]:
    """Return the files of ``paths`` whose content differs from ``known``; raises HostError."""
    return [
        path
        for path, now in noted(paths, known).items()
        if isinstance(before := known.get(path), dict) and before.get("sha256") != now["sha256"]
    ]
