"""Where packages come from."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from ..settings import package_proxy
from . import Context, Finding, ok, warning

_SECONDS = 3


def packages(context: Context) -> Iterator[Finding]:
    """The proxy for packages answers."""
    word = context.settings.packages.proxy
    proxy = package_proxy.find(word)
    if proxy is None:
        if word:
            yield warning("there is no apt-cacher-ng on this host", "apt install apt-cacher-ng")
        else:
            yield ok("packages come through no proxy; jobs fetch them anew each time")
        return
    where = f"{proxy.host}:{proxy.port}"
    try:
        socket.create_connection((proxy.host, proxy.port), _SECONDS).close()
    except OSError as error:
        start = "systemctl restart apt-cacher-ng" if word == package_proxy.AUTO else ""
        advice = "" if start else "see packages.proxy in the settings"
        yield warning(f"the proxy for packages, {where}, does not answer: {error}", start, advice=advice)
        return
    yield ok(f"packages come through the proxy {where}")


CHECKS = (packages,)
