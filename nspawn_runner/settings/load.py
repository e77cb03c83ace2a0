"""Settings of the host: /etc/nspawn-runner/nspawn-runner.toml over the defaults, checked as a whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from ..errors import HostError
from ..light_typing import Any
from .paths import DEFAULT_FILE
from .tables import Settings


def load(path: str | None = None, read_toml: Callable[[str], dict[str, Any]] | None = None) -> Settings:
    """Return the settings of the file ``path``, or of the usual file, or the defaults where that does not exist.

    Raises HostError that names the file and every wrong key in it, and for one that others than root may change.
    ``read_toml`` does what tomllib.loads does, which is the default.
    """
    file = path or DEFAULT_FILE
    try:
        with open(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read()
        folders = {os.path.dirname(os.path.abspath(file)), os.path.dirname(os.path.realpath(file))}
        changeable = [file] if _is_others(status) else [name for name in folders if _is_others(os.stat(name))]
    except FileNotFoundError:
        if path is not None:
            raise HostError(f"there is no settings file {file}") from None
        return Settings()
    except OSError as error:
        raise HostError(f"cannot read the settings {file}: {error.strerror}") from error
    if changeable:
        raise HostError(
            f"the settings {file} can be written by others than root",
            facts="" if changeable == [file] else f"so can their folder {changeable[0]}, where they can be replaced",
            advice=f"fix it: chown root {changeable[0]}; chmod go-w {changeable[0]}",
        )
    from . import package_proxy
    from .parse import parse  # with the schema, which a stage without a settings file does not need

    return package_proxy.opened(parse(content, file, read_toml))


def _is_others(status: os.stat_result) -> bool:
    return status.st_uid != 0 or bool(stat.S_IMODE(status.st_mode) & 0o022)
