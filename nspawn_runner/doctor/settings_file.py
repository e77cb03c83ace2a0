"""The settings file."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..errors import HostError
from ..settings import load, paths
from . import Context, Finding, failed, ok


def settings_file(context: Context) -> Iterator[Finding]:
    """The file says nothing wrong; the other checks take the defaults where it does."""
    file = context.config_file or paths.DEFAULT_FILE
    try:
        load.load(context.config_file)
    except HostError as error:
        text = "; ".join(text for text in (error.what, error.facts) if text)
        if "chown" in error.advice:
            yield failed(text, error.advice.removeprefix("fix it: "))
        else:
            yield failed(text, advice=f"correct {file}")
        return
    yield ok(file if os.path.exists(file) else f"no {file}: the defaults hold")


CHECKS = (settings_file,)
