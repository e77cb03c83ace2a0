"""How many jobs gitlab-runner runs at a time, by its config.toml."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import HostError

DEFAULT_FILE = "/etc/gitlab-runner/config.toml"


def of_runner(environ: Mapping[str, str]) -> int:
    """Return ``concurrent`` of the runner's config.toml; 1 where it says nothing or there is no such file.

    The runner names the file in $CONFIG_FILE. Raises HostError for one that cannot be read.
    """
    import tomllib

    path = environ.get("CONFIG_FILE") or DEFAULT_FILE
    advice = "mend it, or say how many jobs there are at a time: concurrent under [limits] in the settings"
    try:
        with open(path, "rb") as file:
            concurrent = tomllib.load(file).get("concurrent", 1)
    except FileNotFoundError:
        return 1
    except OSError as error:
        raise HostError(f"cannot read gitlab-runner's {path}", facts=str(error.strerror), advice=advice) from None
    except (ValueError, RecursionError):
        # What is wrong is not shown: the file holds tokens.
        raise HostError(f"gitlab-runner's {path} is not valid TOML", advice=advice) from None
    if type(concurrent) is not int or concurrent < 1:
        raise HostError(f"concurrent in gitlab-runner's {path} is not a number from 1 on", advice=advice)
    return concurrent
