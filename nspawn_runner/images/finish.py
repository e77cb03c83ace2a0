"""What makes a freshly built tree an image: no trace of the host that built it, and a start without errands."""

from __future__ import annotations

from . import identity, inside

# Errands for machines that live for weeks; one that lives for a job would run them at its start.
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "man-db.timer", "motd-news.timer", "systemd-networkd-wait-online.service",
)  # fmt: skip
_HOSTS = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def finish(root: str) -> None:
    """Settle the new tree ``root``: identity, name, resolver, locale, timers, what apt left; raises HostError."""
    identity.give_none(root)
    # The builders copy the host's; machines get one at their start.
    inside.write(root, "etc/resolv.conf", b"")
    if not inside.read(root, "etc/hosts").mode:
        inside.write(root, "etc/hosts", _HOSTS)
    inside.write(root, "etc/locale.conf", b"LANG=C.UTF-8\n")
    inside.link(root, "etc/default/locale", "../locale.conf")
    for unit in _MASKED:
        inside.link(root, f"etc/systemd/system/{unit}", "/dev/null")
    # mmdebstrap keeps the options it was given; they were for the building only.
    inside.remove(root, "etc/dpkg/dpkg.cfg.d/99mmdebstrap")
    for folder in ("var/lib/apt/lists", "var/cache/apt/archives", "var/cache/apt", "var/log/apt"):
        inside.remove_files(root, folder)
    # Ansible's cache_valid_time goes by this date: empty lists must not look fresh.
    inside.set_old(root, "var/lib/apt/lists")
    inside.remove(root, "var/log/bootstrap.log")
    inside.remove(root, "var/log/dpkg.log")
