# ruff: noqa: S607
"""The machine that the tests run on as their host: one with systemd as its PID 1, and nothing to lose."""

import subprocess
from pathlib import Path

from disposable_host import STATE_FOLDER, DisposableHost


class ThisHost(DisposableHost):
    """What tests want of a host, done right here; the image `bookworm` is there already."""

    def __init__(self) -> None:
        kind = subprocess.check_output(["stat", "--file-system", "--format=%T", STATE_FOLDER], text=True).strip()
        super().__init__(state="btrfs" if kind == "btrfs" else "overlay")

    def _way_in(self, folder: str | Path) -> list[str]:
        return ["env", "--unset=CGROUPS", f"--chdir={folder}", "--"]

    def path(self, inside: str | Path) -> Path:
        return Path("/") / inside
