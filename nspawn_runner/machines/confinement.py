"""A profile applied to a machine: options of systemd-nspawn, properties of its unit, folders beside its tree."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ..errors import HostError
from ..settings import profiles
from ..settings.profiles import Profile
from . import backends
from .records import Record

# Families of sockets that a network namespace confines and a Debian system uses. Of others the host's own are seen
# (vsock leads to the hypervisor and to the host), or the kernel loads a module for whoever asks.
_ADDRESS_FAMILIES = ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET")
# System calls that systemd-nspawn leaves open, and what a program is told that can do without: ENOSYS where it looks
# whether the kernel has them. socketcall is how 32-bit x86 opens a socket of a family that no filter can see.
_CLOSED_CALLS = {
    "io_uring_setup": "ENOSYS",
    "io_uring_enter": "ENOSYS",
    "io_uring_register": "ENOSYS",
    "userfaultfd": "EPERM",
    "socketcall": "ENOSYS",
}
# What a machine writes is thrown away with it: these do nothing and say that all went well. --suppress-sync would also
# take away openat2, which tar and bubblewrap do not do without, and O_SYNC, which runc needs.
_SYNC_CALLS = ("fdatasync", "fsync", "msync", "sync", "sync_file_range", "sync_file_range2", "syncfs")
_NSPAWN_MOUNT = "run-systemd-nspawn.mount"
_ANYBODYS = {"/tmp", "/var/tmp", "/dev/shm"}  # noqa: S108


def nspawn_options(profile: Profile, record: Record) -> list[str]:
    """Return the options of systemd-nspawn for a machine of ``profile``; raises HostError for a path not there."""
    idmap = "idmap" if record.user_namespace else ""
    options = [f"--system-call-filter={word}" for word in profile.system_calls]
    if profile.capabilities:
        options.append(f"--capability={','.join(profile.capabilities)}")
    if profile.drop_capabilities:
        options.append(f"--drop-capability={','.join(profile.drop_capabilities)}")
    if profile.no_new_privileges:
        options.append("--no-new-privileges=yes")
    options += [f"--bind={path}" for path in _devices(profile, record)]
    options += [f"--bind={source}:{target}" for source, target in _volumes(profile, record)]
    if profile.nspawn:
        unit = os.path.join(os.path.dirname(__file__), _NSPAWN_MOUNT)
        options.append(f"--bind-ro={unit}:/etc/systemd/system/{_NSPAWN_MOUNT}")
    for path, size in profile.tmpfs.items():
        options.append(f"--tmpfs={path}:size={size},mode={'1777' if path in _ANYBODYS else '0755'}")
    for each in map(profiles.bind, profile.binds):
        if not os.path.exists(each.source):
            raise _missing(each.source, record)
        mode = "bind" if each.writable else "bind-ro"
        options.append(f"--{mode}={each.source}:{each.target}:{idmap if each.idmapped else ''}".rstrip(":"))
    return options


def builds_option(record: Record) -> list[str]:
    """Return the option of systemd-nspawn that binds the folder for the machine's builds, where it is the host's."""
    idmap = ":idmap" if record.user_namespace else ""
    return [f"--bind={record.builds}:{record.builds_dir}{idmap}"] if record.builds else []


def boot_words(profile: Profile) -> list[str]:
    """Return the words for a machine's command line by which its systemd does what ``profile`` says."""
    return [f"systemd.wants={_NSPAWN_MOUNT}"] if profile.nspawn else []


def confinement(profile: Profile, record: Record) -> list[str]:
    """Return the properties of the unit that keep a machine of ``profile`` from devices and the rest of the host.

    The filters hold for systemd-nspawn itself, which needs none of what they close.
    """
    closed = [f"{call}:{error}" for call, error in _CLOSED_CALLS.items() if call not in profile.system_calls]
    if profile.suppress_sync:
        closed += [f"{call}:0" for call in _SYNC_CALLS]
    return [
        f"RestrictAddressFamilies={' '.join((*_ADDRESS_FAMILIES, *profile.address_families))}",
        *([f"SystemCallFilter=~{' '.join(closed)}"] if closed else []),
        f"Slice={record.slice}",
        "Delegate=yes",
        "DevicePolicy=closed",
        "DeviceAllow=char-pts rw",
        # systemd-nspawn 257 makes /dev/net/tun itself and refuses to start without the right to; by number, since the
        # node need not exist on the host.
        "DeviceAllow=/dev/char/10:200 rwm",
        # m: systemd-nspawn 257 makes some nodes itself, and refuses to start when it may use but not make them.
        *(f"DeviceAllow={path} rwm" for path in _devices(profile, record)),
    ]


def make_volumes(profile: Profile, record: Record) -> None:
    """Make the folders of the volumes, in the layer: they go with it."""
    for source, _ in _volumes(profile, record):
        os.makedirs(os.path.dirname(source), mode=0o700, exist_ok=True)
        os.mkdir(source, mode=0o755)
        os.chown(source, record.uid_base, record.uid_base)


def _volumes(profile: Profile, record: Record) -> Iterator[tuple[str, str]]:
    """Yield the folder on the host and the path in the machine of each volume; on btrfs the tree itself is enough."""
    folder = backends.named(record.backend).volumes_folder(record)
    for number, target in enumerate(profile.volumes if folder else ()):
        yield f"{folder}/{number}", target


def _devices(profile: Profile, record: Record) -> Iterator[str]:
    for path, needed in map(profiles.device, profile.devices):
        if _is_device(path):
            yield path
        elif needed:
            raise _missing(path, record)


def _is_device(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _missing(path: str, record: Record) -> HostError:
    return HostError(
        f"the profile {record.profile} needs {path}, which the host does not have",
        advice="change the profile in the settings",
    )
