"""Where packages come from."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from ..machines import network
from ..settings import package_proxy
from ..settings.package_proxy import PackageProxy
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
            yield ok("packages come through no proxy; jobs fetch them again each time")
        return
    where = f"{proxy.host}:{proxy.port}"
    if not proxy.is_here and _is_ours(proxy.host):
        yield warning(
            f"the proxy for packages, {where}, is on this host by an address that machines do not reach",
            advice='write proxy = "auto", or "http://localhost:PORT", in the settings',
        )
        return
    try:
        socket.create_connection((_as_machines_see(proxy, context), proxy.port), _SECONDS).close()
    except OSError as error:
        start = "systemctl restart apt-cacher-ng" if word == package_proxy.AUTO else ""
        advice = "" if start else "see packages.proxy in the settings"
        yield warning(f"the proxy for packages, {where}, does not answer: {error}", start, advice=advice)
        return
    yield ok(f"packages come through the proxy {where}")


def _as_machines_see(proxy: PackageProxy, context: Context) -> str:
    """Return the address by which machines ask ``proxy``, as far as there is one yet."""
    own = context.own.network
    if not proxy.is_here or own.mode != network.PRIVATE or not network.is_up(own.bridge):
        return proxy.host
    return network.gateway(network.with_subnet(own)).partition("/")[0]


def _is_ours(host: str) -> bool:
    """Return whether ``host`` is an address of this host: one that a socket can be bound to."""
    try:
        with socket.socket() as trial:
            trial.bind((host, 0))
    except OSError:
        return False
    return True


CHECKS = (packages,)
