"""systemd, the parts of it that we use, our privileges, the clock."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator

from ..errors import HostError
from ..host import process, signals, systemd
from ..machines import cgroups
from ..nspawn import options
from ..settings import paths
from . import Context, Finding, failed, ok, warning

# What starting a machine takes, by the numbers of linux/capability.h.
_CAPABILITIES = {
    0: "CAP_CHOWN", 1: "CAP_DAC_OVERRIDE", 6: "CAP_SETGID", 7: "CAP_SETUID", 12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN",
    27: "CAP_MKNOD", 31: "CAP_SETFCAP",
}  # fmt: skip
_MEMORY_BYTES, _TASKS, _WEIGHT = 64 << 20, 50, 50
_CPU_OF_WEIGHT = {_WEIGHT, 512}  # cpu.weight of version 2, the same as cpu.shares of version 1
_DAY = 86400


def rights(context: Context) -> Iterator[Finding]:
    """Root is as strong as on a host of its own."""
    del context
    with open("/proc/self/status") as file:
        held = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    missing = [name for number, name in _CAPABILITIES.items() if not held >> number & 1]
    if missing:
        yield failed(
            f"root lacks {', '.join(missing)}", advice="run it on the host itself, or in a container with all rights"
        )
    else:
        yield ok("root, with all capabilities that machines need")


def init(context: Context) -> Iterator[Finding]:
    """PID 1 is systemd (sd_booted(3))."""
    del context
    if os.path.isdir("/run/systemd/system"):
        asked = ["systemctl", "show", "--property=Version", "--value"]
        yield ok(f"PID 1 is systemd {process.run(asked).stdout.decode(errors='replace').strip()}")
    else:
        yield failed("PID 1 is not systemd", advice="install systemd-sysv and boot again, or use another host")


def systemd_nspawn(context: Context) -> Iterator[Finding]:
    """systemd-nspawn knows all options that machines are started with."""
    del context
    helped = options.help_text()
    used = [*options.boot_options("m", ["--network-bridge=b", "--resolv-conf=r"]), "--private-users-ownership=map"]
    missing = [name for option in used if option.startswith("--") and (name := option.split("=")[0]) not in helped]
    if missing:
        yield failed(
            f"systemd-nspawn does not know {', '.join(missing)}", advice="upgrade the host: Debian 12 or newer"
        )
    else:
        yield ok("systemd-nspawn knows the options of machines")


def machined(context: Context) -> Iterator[Finding]:
    """systemd-machined answers."""
    del context
    done = process.run(["machinectl", "list", "--no-legend"], check=False, timeout_seconds=30)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        yield failed(
            f"systemd-machined does not answer: {said[-1] if said else 'no message'}",
            "apt install dbus systemd-container; systemctl restart dbus.socket systemd-machined",
        )
    else:
        yield ok("systemd-machined answers")


def unit_limits(context: Context) -> Iterator[Finding]:
    """A transient unit starts, and its limits are in force."""
    del context
    unit = f"nspawn-runner-doctor-{os.getpid()}.service"
    limits = [f"MemoryMax={_MEMORY_BYTES}", f"TasksMax={_TASKS}", f"CPUWeight={_WEIGHT}"]
    properties = [*limits, "Type=exec", "Delegate=yes", "PrivateMounts=yes", "RuntimeMaxSec=60"]
    try:
        argv = ["sleep", "60"]
        process.run(systemd.run_argv(argv, unit=unit, description="nspawn-runner doctor", properties=properties))
        found = cgroups.limits(systemd.state(unit)["ControlGroup"])
    finally:
        with signals.held():
            systemd.stop(unit)
    idle = [
        name
        for name, is_set in (
            ("memory", found.memory_bytes == _MEMORY_BYTES),
            ("processes", found.tasks == _TASKS),
            ("CPU share", found.cpu in _CPU_OF_WEIGHT),
        )
        if not is_set
    ]
    if idle:
        yield warning(f"limits of machines do nothing for: {', '.join(idle)}", advice=_controllers_advice(idle))
    else:
        yield ok(f"units start, and their limits act (cgroup version {cgroups.version()})")


def _controllers_advice(idle: list[str]) -> str:
    word = "systemd.unified_cgroup_hierarchy=1" if cgroups.version() == 1 else "cgroup_enable=memory"
    words = word if "memory" in idle or cgroups.version() == 1 else "no cgroup_disable="
    return f"GRUB_CMDLINE_LINUX in /etc/default/grub needs {words}, then update-grub and a reboot"


def clock(context: Context) -> Iterator[Finding]:
    """The clock is not behind what was made on this host, and something keeps it right."""
    stamps = glob.glob(f"{glob.escape(context.settings.state_folder)}/{paths.GENERATIONS}/*/*.json")
    newest = max(os.stat(path).st_mtime for path in [__file__, *stamps])
    if time.time() < newest - _DAY:
        now, then = (time.strftime("%Y-%m-%d", time.gmtime(when)) for when in (time.time(), newest))
        yield failed(f"the clock says {now}, but there are files of {then}", "timedatectl set-ntp true")
    elif _is_clock_free():
        yield warning("nothing keeps the clock right", "apt install systemd-timesyncd; timedatectl set-ntp true")
    else:
        yield ok(time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))


def _is_clock_free() -> bool:
    """Return whether no time server steers the clock; in a container that is not ours to steer."""
    if not process.run(["systemd-detect-virt", "--container", "--quiet"], check=False).returncode:
        return False
    try:
        ask = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        return process.run(ask, check=False, timeout_seconds=30).stdout.strip() == b"no"
    except HostError:
        return False  # no timedatectl: nobody to ask


CHECKS = (rights, init, systemd_nspawn, machined, unit_limits, clock)
