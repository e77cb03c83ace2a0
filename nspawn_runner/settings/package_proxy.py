"""The proxy that packages come through: for machines, which ask it while it answers, and for builders of images."""

from __future__ import annotations

import os

from ..light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .tables import Settings

AUTO = "auto"
_ACNG_SOCKET, _ACNG_PORT = "/run/apt-cacher-ng/socket", 3142  # of Debian's apt-cacher-ng
_HERE = frozenset({"localhost", "127.0.0.1"})
_PORT = 80


class PackageProxy(NamedTuple):
    """A proxy's ``host`` and ``port``, as the host sees them."""

    host: str
    port: int

    @property
    def is_here(self) -> bool:
        """Whether it is on the host itself, which machines know by another address."""
        return self.host in _HERE


def find(word: str) -> PackageProxy | None:
    """Return the proxy that the setting ``word`` means: none, apt-cacher-ng on this host if that is there, or a URL."""
    if word == AUTO:
        return PackageProxy("127.0.0.1", _ACNG_PORT) if os.path.exists(_ACNG_SOCKET) else None
    if not word:
        return None
    host, _, port = _place(word)
    return PackageProxy(host, int(port or _PORT))


def _place(word: str) -> tuple[str, str, str]:
    return word.removeprefix("http://").rstrip("/").partition(":")


def problem(word: str) -> str:
    """Return what is wrong with ``word`` as the setting, in words that follow the key."""
    host, colon, port = _place(word)
    letters = host.isascii() and all(char.isalnum() or char in ".-" for char in host)
    plain = letters and all(0 < len(label) < 64 and label[0].isalnum() for label in host.split("."))
    number = not colon or (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536)
    if word in {"", AUTO} or (word.startswith("http://") and plain and number and len(host) < 254):
        return ""
    return 'must be "auto", or a proxy such as "http://proxy.example.com:3142", or empty'


def opened(settings: Settings) -> Settings:
    """Return ``settings`` with the proxy's port among what machines can reach of the host, where it is there."""
    proxy = find(settings.packages.proxy)
    if proxy is None or not proxy.is_here:
        return settings
    port, known = f"tcp/{proxy.port}", settings.network.host_ports
    network = settings.network._replace(host_ports=known if port in known else (*known, port))
    return settings._replace(network=network)


def apt_files(host: str, port: int, script: str) -> dict[str, str]:
    """Return a program that says whether the proxy answers, and apt's configuration that asks it, which is ``script``.

    apt.conf(5), apt-transport-http(1): Proxy-Auto-Detect. Sources by https go past it.
    """
    url = f"http://{host}:{port}"
    ask = f"timeout 1 bash -c 'exec 3<>/dev/tcp/{host}/{port}' 2>/dev/null"
    return {
        "apt-proxy": f"#!/bin/sh\nif {ask}; then echo {url}; else echo DIRECT; fi\n",
        "apt.conf": f'Acquire::http::Proxy-Auto-Detect "{script}";\n',
    }
