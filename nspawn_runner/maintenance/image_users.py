"""Which machines use which image."""

from __future__ import annotations

import os

from ..machines import records
from ..settings import paths


def used_roots() -> list[str]:
    """Return the roots that machines started from, one per machine."""
    return [record.root for record in records.all_records()]


def machines_of(state_folder: str, name: str) -> list[str]:
    """Return the names of the machines that use any generation of the image ``name``."""
    plain = os.path.join(state_folder, name)
    folder = os.path.join(state_folder, paths.GENERATIONS, name)
    return [
        record.machine
        for record in records.all_records()
        if record.root == plain or os.path.dirname(record.root) == folder
    ]
