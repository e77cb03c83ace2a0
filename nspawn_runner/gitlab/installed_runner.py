"""The host's gitlab-runner: its program, its config.toml, and how many jobs it runs at once."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import HostError

CONFIG_FILE = "/etc/gitlab-runner/config.toml"
_PROGRAMS = ("/usr/bin/gitlab-runner", "/usr/local/bin/gitlab-runner")


def program(wanted: str) -> str:
    """Return the path of gitlab-runner that the setting ``wanted`` selects; empty if there is none."""
    return next((path for path in _PROGRAMS if os.access(path, os.X_OK)), "") if wanted == "auto" else wanted


def concurrent(environ: Mapping[str, str], *, unsaid: int = 1) -> int:
    """Return ``concurrent`` of the runner's config.toml; ``unsaid`` if that or the file is missing.

    The runner names the file in $CONFIG_FILE. Raises HostError if it cannot be read or is invalid.
    """
    import tomllib

    path = environ.get("CONFIG_FILE") or CONFIG_FILE
    advice = "fix it, or set how many jobs run at once: concurrent under [limits] in the settings"
    try:
        with open(path, "rb") as file:
            count = tomllib.load(file).get("concurrent", unsaid)
    except FileNotFoundError:
        return unsaid
    except OSError as error:
        raise HostError(f"cannot read gitlab-runner's {path}", facts=str(error.strerror), advice=advice) from None
    except (ValueError, RecursionError):
        # The details are not shown: the file holds tokens.
        raise HostError(f"gitlab-runner's {path} is not valid TOML", advice=advice) from None
    if type(count) is not int or count < 1:
        raise HostError(f"concurrent in gitlab-runner's {path} is not a number from 1 on", advice=advice)
    return count
