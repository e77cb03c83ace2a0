"""Our [[runners]] sections in the text of gitlab-runner's config.toml: added and removed, all else kept as it is."""

from __future__ import annotations

import os
import re
import tomllib
from typing import Any

from ..errors import HostError
from ..host import files

_MOST_BYTES = 1 << 20
_HEADER = re.compile(r"^[ \t]*\[\[?[ \t]*([^\]\s.]+)", re.MULTILINE)


def read(path: str) -> str:
    """Return the text of the config.toml ``path``, empty if there is none; raises HostError if it is not valid."""
    try:
        content = files.read_head(path, _MOST_BYTES + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise HostError(f"cannot read {path}", facts=str(error.strerror)) from None
    try:
        text = content.decode()
        tomllib.loads(text)
    except (ValueError, RecursionError):
        # The details are not shown: the file holds tokens.
        raise HostError(f"{path} is not valid TOML", advice="correct it first") from None
    if len(content) > _MOST_BYTES:
        raise HostError(f"{path} is larger than 1 MiB")
    return text


def runners(text: str) -> list[dict[str, Any]]:
    """Return the runners in the ``text`` of a config.toml, in their order."""
    found = tomllib.loads(text).get("runners", [])
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def is_ours(runner: dict[str, Any]) -> bool:
    """Return whether ``runner`` calls nspawn-runner for its scripts."""
    custom = runner.get("custom")
    program = custom.get("run_exec", "") if isinstance(custom, dict) else ""
    return os.path.basename(str(program)) == "nspawn-runner"


def added(text: str, section: str) -> str:
    """Return ``text`` with ``section`` behind it, which has to be one of TOML; all before it stays byte for byte."""
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return text + gap + section


def without(text: str, number: int, *, path: str) -> str:
    """Return ``text`` without its runner ``number``, counted from 0, and comments between that and the next table.

    Raises HostError, naming the file ``path``, where that cannot be done without touching anything else.
    """
    wanted = tomllib.loads(text)
    del wanted["runners"][number]
    if not wanted["runners"]:
        del wanted["runners"]
    headers = [(match.start(), match[1], match[0].lstrip().startswith("[[")) for match in _HEADER.finditer(text)]
    starts = [start for start, name, many in headers if name == "runners" and many and _is_runner(text, start)]
    if number < len(starts):
        begin = starts[number]
        ends = [start for start, name, _ in headers if start > begin and (name != "runners" or start in starts)]
        left = (text[:begin].rstrip("\n") + "\n\n" + text[ends[0] if ends else len(text) :]).strip("\n") + "\n"
        try:
            if tomllib.loads(left) == wanted:
                return left
        except tomllib.TOMLDecodeError:
            pass
    raise HostError(f"cannot tell which lines of {path} are our runner's", advice=f"remove it by hand from {path}")


def _is_runner(text: str, start: int) -> bool:
    """Return whether the header at ``start`` begins a runner, not a table in one."""
    return re.match(r"[ \t]*\[\[[ \t]*runners[ \t]*\]\]", text[start:]) is not None


def masked(text: str) -> str:
    """Return ``text`` as it may be shown: without tokens."""
    return re.sub(r"(?m)^([ \t]*token[ \t]*=[ \t]*).*$", r"\1…", text)
