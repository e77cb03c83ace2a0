"""Kernel limits that many machines at once can reach."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..host import files
from . import Context, Finding, failed, ok, warning

# Measured: systemd in a machine holds 8 instances, all of them root's, and the host has some of its own.
_INSTANCES_PER_MACHINE, _INSTANCES_OF_HOST = 8, 64
_INOTIFY = "/proc/sys/fs/inotify/max_user_instances"
_MAX_PTYS, _USED_PTYS = "/proc/sys/kernel/pty/max", "/proc/sys/kernel/pty/nr"


def inotify(context: Context) -> Iterator[Finding]:
    """There are inotify instances for all machines."""
    need = context.machines * _INSTANCES_PER_MACHINE + _INSTANCES_OF_HOST
    there = _number(_INOTIFY)
    text = f"{there} instances, {context.machines} machines need {need}"
    if there >= need:
        yield ok(text)
    elif os.access(_INOTIFY, os.W_OK):
        yield ok(f"{text}; the first machine lifts the limit")
    else:
        mend = f"mount --options=remount,rw /proc/sys; {_sysctl('fs.inotify.max_user_instances', 4 * need)}"
        yield failed(f"{text}: machines beyond that hang in their start", mend)


def terminals(context: Context) -> Iterator[Finding]:
    """There are terminals for all machines: each takes one, and one more for a login."""
    free = _number(_MAX_PTYS) - _number(_USED_PTYS)
    text = f"{free} are free, {context.machines} machines need {2 * context.machines}"
    if free < 2 * context.machines:
        yield warning(text, _sysctl("kernel.pty.max", _number(_MAX_PTYS) + 4 * context.machines))
    else:
        yield ok(text)


def _number(path: str) -> int:
    return int(files.read_head(path, 32))


def _sysctl(name: str, value: int) -> str:
    """Return the command that sets ``name`` now and for good (sysctl.d(5))."""
    return f"echo {name} = {value} > /etc/sysctl.d/90-{name}.conf; sysctl --load=/etc/sysctl.d/90-{name}.conf"


CHECKS = (inotify, terminals)
