"""What makes a freshly built tree an image: no trace of the host that built it."""

from __future__ import annotations

from . import identity, inside

_HOSTS = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def finish(root: str, image: str) -> None:
    """Settle the new tree ``root`` of ``image``: names, resolver, locale, what apt left; raises HostError."""
    identity.give(root, image)
    # The builders copy the host's; machines get one at their start.
    inside.write(root, "etc/resolv.conf", b"")
    if not inside.read(root, "etc/hosts").mode:
        inside.write(root, "etc/hosts", _HOSTS)
    inside.write(root, "etc/locale.conf", b"LANG=C.UTF-8\n")
    inside.link(root, "etc/default/locale", "../locale.conf")
    # mmdebstrap keeps the options it was given; they were for the building only.
    inside.remove(root, "etc/dpkg/dpkg.cfg.d/99mmdebstrap")
    for folder in ("var/lib/apt/lists", "var/cache/apt/archives", "var/cache/apt", "var/log/apt"):
        inside.remove_files(root, folder)
    # Ansible's cache_valid_time goes by this date: empty lists must not look fresh.
    inside.set_old(root, "var/lib/apt/lists")
    inside.remove(root, "var/log/bootstrap.log")
    inside.remove(root, "var/log/dpkg.log")
