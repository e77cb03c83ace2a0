"""Files that a machine gets for its start: which units wait, and settings for what a job may install later.

Both are the machine's own to change. Units that an image starts by itself and a job seldom needs are masked at the
start only, by a generator (systemd.generator(7)): the next reload takes the masks away, so that whatever installs,
enables or unmasks a unit can start it too. The files are written by the machine's systemd-tmpfiles and systemd-sysctl
from credentials (systemd.system-credentials(7), since 252): the host follows no path in the tree, and /run is made
again at each start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from ..host import files
from ..nspawn import options
from ..settings import paths
from ..settings.tables import Network
from . import network
from .plan import Plan
from .records import Record

_CLIENT = "nspawn-runner"  # the command by which a job handles its services
_INSIDE = f"{paths.INSIDE_FOLDER}/start"
_APT = "/etc/apt/apt.conf.d"
# The journal's socket is there from the start's first second on, and generators run before it or at a reload. A unit
# that nothing starts is left alone: "systemctl enable" refuses what is masked. The start waits for it: it looks into
# each folder once, and calls one program.
_GENERATOR = f"""#!/bin/sh
[ -e /run/systemd/journal/socket ] && exit 0
masks=" "
for link in /etc/systemd/system/*.wants/* /usr/lib/systemd/system/*.wants/* /lib/systemd/system/*.wants/*; do
    mask={_INSIDE}/masks/${{link##*/}}
    case "$masks" in *" $mask "*) continue ;; esac
    [ -L "$mask" ] && [ -L "$link" ] && masks="$masks$mask "
done
[ "$masks" = " " ] || cp -P $masks "$2"
exit 0
"""


def write_files(record: Record, plan: Plan) -> None:
    """Write what ``nspawn_options`` names into the machine's folder on the host."""
    folder = f"{record.folder}/inside"
    for path in (folder, f"{folder}/generators", f"{folder}/masks"):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o755)  # noqa: S103  (the machine's root looks into it; nobody else gets as far)
    generator = _GENERATOR
    if record.place:
        from . import service_files  # of few jobs

        if plan.service:
            generator = service_files.GENERATOR + generator.partition("\n")[2]
        for name, content in service_files.contents(record, plan).items():
            files.write_atomically(f"{folder}/{name}", content, mode=0o755 if name == _CLIENT else 0o644)
    files.write_atomically(f"{folder}/generators/nspawn-runner", generator.encode(), mode=0o755)
    for unit in options.ASLEEP:
        with suppress(FileExistsError):
            os.symlink("/dev/null", f"{folder}/masks/{unit}")
    written = _of_network(record, plan.network)
    if plan.package_proxy and record.network != network.NONE and not plan.in_place:  # where it would stay
        written |= _of_package_proxy(record, plan, folder)
    for name, lines in (("tmpfiles.extra", _tmpfiles(written)), ("sysctl.extra", _SYSCTL)):
        files.write_atomically(f"{record.folder}/{name}", lines)


def nspawn_options(record: Record) -> list[str]:
    """Return the options of systemd-nspawn that hand the machine's files to it."""
    client = f"--bind-ro={record.folder}/inside/{_CLIENT}:/usr/local/bin/nspawn-runner"
    return [
        f"--bind-ro={record.folder}/inside:{_INSIDE}",
        *([client] if record.place == 1 else []),
        f"--setenv=SYSTEMD_GENERATOR_PATH={_INSIDE}/generators:",
        *(f"--load-credential={name}:{record.folder}/{name}" for name in ("tmpfiles.extra", "sysctl.extra")),
    ]


# In a new network namespace no group may ping, and systemd's own line names groups that a machine does not have. One
# that cannot be set, as in the host's network, is passed over.
_SYSCTL = b"-net.ipv4.ping_group_range = 0 65535\n"


def _of_network(record: Record, settings: Network) -> dict[str, str]:
    """Return files with the machine's network as each program would set it up."""
    written = {}
    if record.network == network.PRIVATE:
        own, via = network.address(settings, record.slot), network.gateway(settings).partition("/")[0]
        servers = network.name_servers(settings)
        # As ip sets it: networkd 252 fails where the address is there with another broadcast address.
        written["/run/systemd/network/10-nspawn-runner.network"] = (
            f"[Match]\nName={network.INTERFACE}\n[Network]\nGateway={via}\nLinkLocalAddressing=no\n"
            f"[Address]\nAddress={own}/20\nBroadcast=no\n"
        )
        # It finds none in /etc/resolv.conf, which its package makes a link to its own.
        written["/run/systemd/resolved.conf.d/nspawn-runner.conf"] = f"[Resolve]\nDNS={' '.join(servers)}\n"
        known = "".join(f"nameserver {server}\n" for server in servers)
        written[f"/run/resolvconf/interface/{network.INTERFACE}.nspawn-runner"] = known
        written["/run/NetworkManager/conf.d/nspawn-runner.conf"] = "[main]\ndns=none\n"
    return written


def _of_package_proxy(record: Record, plan: Plan, folder: str) -> dict[str, str]:
    """Return the file by which apt in the machine finds the proxy; the program that it asks goes to ``folder``."""
    from ..host import beneath
    from ..settings import package_proxy  # few hosts have one

    proxy = package_proxy.find(plan.package_proxy)
    if proxy is None or not beneath.exists(plan.root, _APT):
        return {}
    via = network.gateway(plan.network).partition("/")[0] if record.network == network.PRIVATE else proxy.host
    made = package_proxy.apt_files(via if proxy.is_here else proxy.host, proxy.port, f"{_INSIDE}/apt-proxy")
    files.write_atomically(f"{folder}/apt-proxy", made["apt-proxy"].encode(), mode=0o755)
    return {f"{_APT}/00nspawn-runner-proxy": made["apt.conf"]}


def _tmpfiles(written: Mapping[str, str]) -> bytes:
    """Return the lines for tmpfiles.d(5) that write files, by their paths."""
    return "".join(f"f {path} 0644 root root - {_escaped(text)}\n" for path, text in written.items()).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "%%").replace("\n", "\\n")
