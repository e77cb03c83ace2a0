"""Profiles: what machines may do beyond, or below, the default; three are built in, admins may define others.

The settings or an image's playbook choose a profile, never a job. docs/profiles.md says what each gives up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..light_typing import Any, NamedTuple
from ..names import is_image_name, is_plain_path
from . import value_checks
from .value_checks import Key, list_of


class Profile(NamedTuple):
    """What the machines of a profile may do.

    ``user_namespace`` None and ``network`` "" are what the settings say. ``capabilities`` are added to those that
    systemd-nspawn leaves, ``system_calls`` are words of its --system-call-filter, ``address_families`` of sockets are
    added to the usual. ``devices`` and ``binds`` are paths
    of the host, as ``device`` and ``bind`` read them; ``tmpfs`` is path = size, and ``volumes`` are folders of the
    machine that lie beside its tree and begin empty. With ``nspawn`` systemd-nspawn works in the machine.
    """

    user_namespace: bool | None = None
    network: str = ""
    no_new_privileges: bool = False
    suppress_sync: bool = True
    capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    system_calls: tuple[str, ...] = ()
    address_families: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    binds: tuple[str, ...] = ()
    tmpfs: Mapping[str, str] = {}
    volumes: tuple[str, ...] = ()
    nspawn: bool = False


class Bind(NamedTuple):
    """A folder or file of the host that is seen in the machine at ``target``."""

    source: str
    target: str
    writable: bool = False
    idmapped: bool = True


DEFAULT = "default"
BUILT_IN: Mapping[str, Profile] = {
    DEFAULT: Profile(),
    "nesting": Profile(
        # A runtime gives each container a keyring of its own.
        system_calls=("@keyring",),
        devices=("-/dev/fuse",),
        # An overlay cannot be the upper directory of another one.
        volumes=("/var/lib/containers", "/var/lib/docker"),
        nspawn=True,
    ),
    "trusted": Profile(user_namespace=False, network="host"),
}


def find(name: str, own: Mapping[str, Profile]) -> Profile:
    """Return the profile ``name``, which is built in or one of the admin's ``own``."""
    return {**BUILT_IN, **own}[name]


def unknown(names: Sequence[str], own: Mapping[str, Profile]) -> str:
    """Say which of ``names`` is neither built in nor one of the admin's ``own``, and what there is; empty if none."""
    known = {**BUILT_IN, **own}
    lost = [name for name in names if name not in known]
    return f"there is no profile {lost[0]} (there are {', '.join(known)})" if lost else ""


def device(text: str) -> tuple[str, bool]:
    """Return the path of a device, and whether the host has to have it: it need not where a - stands before it."""
    return text.removeprefix("-"), not text.startswith("-")


def bind(text: str) -> Bind:
    """Read ``SOURCE[:TARGET[:OPTIONS]]``; the options are ``rw`` and ``noidmap``. Raises ValueError."""
    source, *rest = text.split(":")
    target = rest[0] if rest else source
    words = rest[1].split(",") if len(rest) > 1 else []
    if len(rest) > 2 or set(words) - {"rw", "noidmap"}:
        raise ValueError(text)
    return Bind(source, target, "rw" in words, "noidmap" not in words)


# Reading the admin's own. Each problem is the dotted key and what is wrong with it.


def parse(data: Any, problems: list[tuple[str, str]]) -> Mapping[str, Profile]:
    """Return the profiles in ``data``, the settings' value of ``profiles``; adds to ``problems`` what is wrong."""
    if not isinstance(data, dict) or not all(isinstance(table, dict) for table in data.values()):
        problems.append(("profiles", "must be tables, each under [profiles.NAME]"))
        return {}
    for name, table in data.items():
        problems += [(f"profiles.{name}{key and '.'}{key}", text) for key, text in _problems(name, table, data)]
    found: dict[str, Profile] = {}
    for name in data:
        bases = [name]
        while isinstance(base := data[bases[-1]].get("base", DEFAULT), str) and base in data and base not in bases:
            bases.append(base)
        if base in bases:
            problems.append((f"profiles.{name}.base", f"leads back to {base}"))
        values: dict[str, Any] = {}
        for each in reversed(bases):
            values |= {key: _plain(value) for key, value in data[each].items() if key in Profile._fields}
        built_in = BUILT_IN.get(base if isinstance(base, str) else DEFAULT, Profile())
        found[name] = built_in._replace(**values)
    return found


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _problems(name: str, table: Mapping[str, Any], data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with one table: key and text."""
    found = []
    if name in BUILT_IN:
        found.append(("", "is built in: name yours otherwise, with this one as base"))
    elif not is_image_name(name):
        found.append(("", "cannot be a profile's name"))
    for key, value in table.items():
        if key == "base":
            known = [*{**BUILT_IN, **data}]
            text = "" if isinstance(value, str) and value in known else f"must be one of {', '.join(known)}"
        elif key in KEYS and (check := KEYS[key].check):
            text = check(value)
        else:
            from .mistakes import no_such

            text = no_such(key, ("base", *Profile._fields))
        if text:
            found.append((key, text))
    return found


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _is_capability(text: str) -> bool:
    return text in {f"CAP_{name}" for name in _CAPABILITIES.split()}


def _is_system_call(text: str) -> bool:
    name = text.removeprefix("~").removeprefix("@")
    return bool(name) and name.isascii() and all(char.isalnum() or char in "_-" for char in name)


def _is_address_family(text: str) -> bool:
    name = text.removeprefix("AF_")
    return text != name and name.isascii() and name.isalnum()


def _is_device(text: str) -> bool:
    path, _ = device(text)
    return is_plain_path(path) and path.startswith("/dev/")


def _is_target(path: str) -> bool:
    """Return whether something may be mounted at ``path`` in a machine: not over what systemd-nspawn makes itself."""
    top = f"{path}/".split("/")[1]
    return is_plain_path(path) and (top not in {"", "proc", "sys", "dev"} or path == "/dev/shm")  # noqa: S108


def _is_bind(text: str) -> bool:
    try:
        read = bind(text)
    except ValueError:
        return False
    return is_plain_path(read.source) and _is_target(read.target)


def _sizes(value: Any) -> str:
    ok = isinstance(value, dict) and all(
        _is_target(path) and isinstance(size, str) and not value_checks.size(size) for path, size in value.items()
    )
    return "" if ok else 'must be a table of "path in the machine" = "size", as in "/tmp" = "2G"'


_PATHS = "absolute paths of letters, digits and . _ + @ -, in the machine not in /proc, /sys and /dev"
KEYS: Mapping[str, Key] = {
    "user_namespace": Key(
        _flag,
        "`false`: root in a job is root on the host",
    ),
    "network": Key(
        lambda value: (
            ""
            if value in ("", "private", "none", "host")
            else 'must be "private", "none", "host", or "" as in [network]'
        ),
        '`"private"`, `"none"`, `"host"`; overrides `[network] mode`, and an image\'s overrides it',
    ),
    "no_new_privileges": Key(
        _flag,
        "`true`: no program gains rights when it is started, so no sudo, su, ping for users",
    ),
    "suppress_sync": Key(
        _flag,
        "`false`: `fsync`, `sync` and the like wait for the disk; else they do nothing and report success",
    ),
    "capabilities": Key(
        list_of(_is_capability, "capabilities such as CAP_SYSLOG"),
        'added to those systemd-nspawn(1) leaves, such as `["CAP_SYSLOG"]`',
    ),
    "drop_capabilities": Key(
        list_of(_is_capability, "capabilities such as CAP_NET_RAW"),
        "removed from them",
    ),
    "system_calls": Key(
        list_of(_is_system_call, "system calls and @groups of them, ~ before those to forbid"),
        "system calls and `@groups` allowed besides systemd-nspawn's own; `~` forbids. Those that the tool "
        "closes must be named one by one: `io_uring_setup`, `io_uring_enter`, `io_uring_register`, "
        "`userfaultfd`, `socketcall` (sockets of 32-bit x86 programs)",
    ),
    "address_families": Key(
        list_of(_is_address_family, "families of sockets such as AF_VSOCK"),
        'socket families besides UNIX, INET, INET6, NETLINK and PACKET, such as `["AF_VSOCK"]`',
    ),
    "devices": Key(
        list_of(_is_device, "paths in /dev, - before those that the host need not have"),
        "device nodes of the host, with `-` before those that may be missing",
    ),
    "binds": Key(
        list_of(_is_bind, f'"SOURCE", "SOURCE:TARGET" or "SOURCE:TARGET:rw,noidmap": {_PATHS}'),
        '`"SOURCE"`, `"SOURCE:TARGET"` or `"SOURCE:TARGET:rw"`, read-only without `rw`',
    ),
    "tmpfs": Key(
        _sizes,
        '`{ "path" = "size" }`; it counts as the machine\'s memory',
    ),
    "volumes": Key(
        list_of(_is_target, _PATHS),
        "folders of the machine that are kept outside its tree, see nesting",
    ),
    "nspawn": Key(
        _flag,
        "`true`: systemd-nspawn works in the machine, see nesting",
    ),
}
# capabilities(7)
_CAPABILITIES = """
AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER
FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE
NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE
SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM
"""
