# ruff: noqa: S607
"""The machine that the tests run on as their host: one with systemd as its PID 1, and nothing to lose."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from disposable_host import ENVIRONMENT, STATE_FOLDER, DisposableHost


class ThisHost(DisposableHost):
    """What tests want of a host, done right here; the image `bookworm` is there already."""

    def __init__(self) -> None:
        kind = subprocess.check_output(["stat", "--file-system", "--format=%T", STATE_FOLDER], text=True).strip()
        super().__init__(state="btrfs" if kind == "btrfs" else "overlay")

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        new_session: bool = True,
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(argv), env={**ENVIRONMENT, **(env or {})}, cwd=cwd or "/root",
            stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=new_session,
        )  # fmt: skip

    def path(self, inside: str | Path) -> Path:
        return Path("/") / inside
