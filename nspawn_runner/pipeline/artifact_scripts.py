"""Generate the scripts that hand on a job's files, for the machine's shell; pure functions.

They need find and tar in the image. Which files are meant is decided outside, from a list of all there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .scripts import quoted

ALL, UNTRACKED, DOTENV = "files", "untracked", "dotenv"
MOST_BYTES = 64 << 20  # of a list


def unpack(folder: str, archives: Sequence[str], project_dir: str) -> bytes:
    """Return a script that puts the files of the ``archives`` in the machine's ``folder`` into the project."""
    lines = [
        *_need("tar", "getting artifacts of earlier jobs"),
        f"cd -- {quoted(project_dir)}",
        *(f"tar --extract --file={quoted(f'{folder}/{name}')}" for name in archives),
    ]
    return _script(lines)


def listing(out: str, project_dir: str, *, untracked: bool) -> bytes:
    """Return a script that writes the paths of the project's files, each ended by NUL, to files in ``out``."""
    git = f"git ls-files -z --others | head -c {MOST_BYTES} >{quoted(f'{out}/{UNTRACKED}')}"
    return _script([
        *_need("find", "keeping artifacts"),
        f"cd -- {quoted(project_dir)}",
        "find . -path ./.git -prune -o \\( -type f -o -type l -o -type d \\) -print0"
        f" | head -c {MOST_BYTES} >{quoted(f'{out}/{ALL}')}",
        *([git] if untracked else []),
    ])


def pack(out: str, project_dir: str, archives: Iterable[tuple[str, Sequence[str]]], dotenv: Sequence[str]) -> bytes:
    """Return a script that writes ``archives``, each a name and its paths, and the texts of ``dotenv`` to ``out``."""
    lines = [*_need("tar", "keeping artifacts"), f"cd -- {quoted(project_dir)}"]
    for name, paths in archives:
        words = " ".join(quoted(f"./{path}") for path in paths)
        target = quoted(f"{out}/{name}")
        # A file that changes meanwhile, such as a log, is status 1 of GNU tar; all else that goes wrong is more.
        tar = f"tar --null --no-recursion --files-from=- --create --file={target}"
        lines.append(f"printf '%s\\0' {words} | {tar} || test $? = 1")
    if dotenv:
        words = " ".join(quoted(f"./{path}") for path in dotenv)
        lines.append(f"cat -- {words} | head -c {MOST_BYTES} >{quoted(f'{out}/{DOTENV}')}")
    return _script(lines)


def _need(program: str, why: str) -> list[str]:
    missing = f"ERROR: there is no {program} in this image; {why} needs it: add it to the image"
    return [f"command -v {program} >/dev/null || {{ echo {quoted(missing)}; exit 1; }}"]


def _script(lines: Iterable[str]) -> bytes:
    return ("\n".join(["set -e", *lines, "exit 0"]) + "\n").encode(errors="surrogateescape")
