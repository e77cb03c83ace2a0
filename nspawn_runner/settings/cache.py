"""Remember what a TOML text says: loading Python's reader would take a quarter of each stage's start."""

from __future__ import annotations

import json
import os
from contextlib import suppress

from ..light_typing import Any
from .paths import RUN_FOLDER

# Of one text, the last: a host has one settings file. Only root can reach what is in that folder.
FILE = f"{RUN_FOLDER}/settings"


def loads(text: str) -> dict[str, Any]:
    """Return what the TOML ``text`` says, as tomllib.loads does; raises what that raises."""
    with suppress(OSError, ValueError, KeyError, TypeError), open(FILE, "rb") as file:
        known = json.load(file)
        if known["text"] == text and isinstance(known["data"], dict):
            return dict(known["data"])
    import tomllib

    data = tomllib.loads(text)
    if os.geteuid() == 0 and os.path.isdir(RUN_FOLDER):
        from ..host import files

        # Not of a disk that is full, and not of a time or date, which JSON does not know and no setting is.
        with suppress(OSError, TypeError):
            files.write_atomically(FILE, json.dumps({"text": text, "data": data}).encode())
    return data
