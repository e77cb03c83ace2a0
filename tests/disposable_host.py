# ruff: noqa: S607
"""A disposable Debian host, with systemd as PID 1, to run tests and the demo in.

The host is a systemd-nspawn machine over a cached Debian tree. It has cgroups, a network and a root of its own, reaches
the outside through slirp4netns, and may do all that a real host may: boot machines, mount, make bridges and firewall
rules. Needs root, systemd-container, mmdebstrap and slirp4netns; PID 1 need not be systemd.

    python3 tests/disposable_host.py --suite trixie --state btrfs -- systemctl status
"""

import argparse
import contextlib
import fcntl
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from cgroups import entrances, make_cgroups, remove_cgroups, version_2_controllers
from debian_tree import HostError, cache_folder, debian_tree, locked, remove_tree, say, tail

Suite = Literal["bookworm", "trixie"]
State = Literal["overlay", "ext4", "btrfs", "xfs"]

CHECKOUT = Path(__file__).resolve().parent.parent
STATE_FOLDER = "/var/lib/nspawn-runner"
HOST_PACKAGES = (
    "ansible-core,arch-test,attr,btrfs-progs,ca-certificates,curl,dbus,debian-archive-keyring,debootstrap,e2fsprogs,eatmydata,"
    "fdisk,git,iproute2,iputils-ping,kmod,libpam-systemd,mmdebstrap,mount,netbase,nftables,passwd,procps,python3,python3-toml,"
    "python3-yaml,strace,sudo,systemd,systemd-container,systemd-sysv,tar,uidmap,util-linux,xfsprogs,xz-utils,zstd"
)
# What an installation of Debian without a choice of tasks has, as far as documents count on it.
PLAIN_PACKAGES = (
    "apt-utils,ca-certificates,cron,dbus,e2fsprogs,iproute2,iputils-ping,kmod,less,libpam-systemd,man-db,mount,netbase,"
    "nftables,passwd,procps,sudo,systemd,systemd-sysv,util-linux"
)
IMAGE_PACKAGES = (
    "ca-certificates,dbus,git,iproute2,iputils-ping,libpam-systemd,mount,"
    "passwd,procps,python3,sudo,systemd,systemd-sysv"
)
# udev would answer the events of the whole machine; nobody logs in on a console
MASKED = (
    "systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service "
    "console-getty.service getty.target apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer "
    "systemd-networkd-wait-online.service"
)
PROXIES = {name: value for name, value in os.environ.items() if re.fullmatch(r"(?i)(https?|ftp|no)_proxy", name)}
# 10.0.2.3 is where slirp4netns answers for the machine's own resolver
ETC = {
    "hostname": "lab\n",
    "hosts": "127.0.0.1 localhost\n127.0.1.1 lab\n::1 localhost\n",
    "resolv.conf": "nameserver 10.0.2.3\n",
}
ENVIRONMENT = {
    "HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/bash", "LANG": "C.UTF-8",
    "TERM": os.environ.get("TERM", "dumb"),
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **PROXIES,
}  # fmt: skip

# Runs outside, in a mount namespace of its own: whatever it mounts is gone with the last process of the host.
START = """
set -e
scratch=$1 tree=$2 state_source=$3; shift 3
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=0755 tmpfs /run/systemd/nspawn
mount -t overlay -o "volatile,lowerdir=$tree,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root"
if [ -f "$state_source" ]; then mount -o loop "$state_source" "$scratch/state"
else mount --bind "$state_source" "$scratch/state"; fi
for folder in $CGROUPS; do echo $$ > "$folder/cgroup.procs"; done
unset CGROUPS
exec systemd-nspawn --directory="$scratch/root" "$@"
"""
# Runs inside as PID 1 and becomes systemd: limits act only where it finds version 1 controllers writable as it starts.
# A machine's user namespace may mount proc and sysfs only where others are seen whole: not those that nspawn gives us.
INIT = """
for type in proc sysfs; do mkdir -p "/run/whole/$type"; mount -t "$type" "$type" "/run/whole/$type"; done
while read -r _ folder type _; do
    case $type in cgroup*) mount -o remount,bind,rw "$folder";; esac
done < /proc/mounts
mknod /dev/loop-control c 10 237; for n in $(seq 0 63); do mknod -m 660 "/dev/loop$n" b 7 "$n"; done
mknod -m 666 /dev/fuse c 10 229; mkdir -p /dev/net; [ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200
exec /lib/systemd/systemd "$@"
"""
# The shell and nsenter ignore what a signal to the process group means for the command alone.
ENTER = """
for folder in $CGROUPS; do echo $$ > "$folder/cgroup.procs"; done
unset CGROUPS
trap '' HUP INT QUIT TERM
exec nsenter "$@"
"""


def host_tree(suite: Suite = "bookworm", packages: str = HOST_PACKAGES) -> Path:
    """Give the Debian tree that hosts of this suite boot from; made once, never to be written to."""
    return debian_tree("host" if packages == HOST_PACKAGES else "plain", suite, packages)


def image_tree() -> Path:
    """Give the Debian tree that machines of the tests boot from; made once, only to be copied."""
    return debian_tree("image", "bookworm", IMAGE_PACKAGES)


class Process(subprocess.Popen[bytes]):
    """A process that ends with its block where that fails, so that no failed assertion waits for it for ever."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()
        super().__exit__(kind, error, trace)


class DisposableHost:
    """A booted Debian host; a context manager, which on leaving frees all that the host held.

    Its root is thrown away at the end. The state folder, at /var/lib/nspawn-runner, is a plain folder (`overlay`) or a
    file system of its own in a sparse file (`btrfs`, `ext4`, `xfs`), thrown away too unless `state_folder` names one
    to keep.
    `checkout` is seen inside at the same path, writable.
    """

    _numbers = itertools.count(1)

    def __init__(
        self,
        *,
        suite: Suite = "bookworm",
        state: State = "overlay",
        state_folder: Path | None = None,
        checkout: Path = CHECKOUT,
        size: str = "20G",
        packages: str = HOST_PACKAGES,
    ) -> None:
        self.suite, self.state, self.checkout, self.packages = suite, state, checkout, packages
        self.name = f"host-{os.getpid()}-{next(self._numbers)}"
        self._size, self._state_folder = size, state_folder
        self._undo = contextlib.ExitStack()
        self._leader = 0
        self._entered: list[Path] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the host and free its mounts, cgroups, network and folders; do nothing the second time."""
        self._leader = 0
        self._undo.close()

    @property
    def leader(self) -> int:
        """The pid, outside, of the host's PID 1."""
        if not self._leader:
            raise HostError("the host is not running")
        return self._leader

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        check: bool = True,
        timeout: float | None = 300,
        cwd: str | Path | None = None,
        capture: bool = True,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the host, in an environment of its own plus `env`; standard input is `stdin`, else empty.

        A failure raises CalledProcessError with stderr attached as a note. At the time-out the command is killed.
        """
        output = subprocess.PIPE if capture else None
        stdin_kind = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        with self.popen(argv, env=env, cwd=cwd, stdin=stdin_kind, stdout=output, stderr=output) as process:
            try:
                out, err = process.communicate(stdin, timeout)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                for pipe in (process.stdin, process.stdout, process.stderr):
                    if pipe:
                        pipe.close()
                raise
        if check and process.returncode:
            failure = subprocess.CalledProcessError(process.returncode, list(argv), out, err)
            failure.add_note((err or b"").decode(errors="replace").strip())
            raise failure
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        new_session: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Start a command in the host. `.pid` is the leader of a process group: the command and our way to it.

        Signal it with `os.killpg(process.pid, …)`: HUP, INT, QUIT and TERM reach the command only, `.kill()` always
        ends it. A command that dies of one of these four gives status 1.
        """
        return Process(
            [*self._way_in(cwd or "/root"), *argv],
            env={**ENVIRONMENT, **(env or {}), "CGROUPS": _words(self._entered)},
            stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=new_session,
        )  # fmt: skip

    def _way_in(self, folder: str | Path) -> list[str]:
        """A prefix by which a command starts in the host, in this folder of it."""
        return ["sh", "-c", ENTER, "enter", "--target", str(self.leader), "--all", f"--wdns={folder}", "--",
                "env", "--unset=PWD", "--unset=OLDPWD", "--default-signal=HUP,INT,QUIT,TERM",
                "setpriv", "--pdeathsig", "KILL", "--"]  # fmt: skip

    def path(self, inside: str | Path) -> Path:
        """Say where a path of the host is seen from outside. An absolute symbolic link in it leads astray."""
        return Path(f"/proc/{self.leader}/root") / str(inside).lstrip("/")

    def journal(self, unit: str | None = None) -> str:
        """Give the host's journal, or a unit's part of it."""
        selection = [f"--unit={unit}"] if unit else []
        journal = self.run(["journalctl", "--no-pager", "--output=short-monotonic", *selection])
        return journal.stdout.decode(errors="replace")

    def _start(self) -> None:
        tree = host_tree(self.suite, self.packages)
        hosts = cache_folder() / "hosts"
        hosts.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(hosts)
        scratch = hosts / self.name
        with locked(hosts / ".lock"):
            lock = self._undo.enter_context(locked(hosts / f"{self.name}.lock"))
            lock.write(str(os.getpid()))
            self._undo.callback((hosts / f"{self.name}.lock").unlink)
            self._undo.callback(_remove_host, scratch)
        for name in ("upper/etc", "work", "root", "state"):
            (scratch / name).mkdir(parents=True)
        for name, content in ETC.items():
            (scratch / "upper/etc" / name).write_text(content)
        source = self._make_state(scratch)
        cgroups = make_cgroups(self.name)
        _raise_to("/proc/sys/fs/inotify/max_user_instances", 8192)
        _raise_to("/proc/sys/fs/inotify/max_user_watches", 524288)

        console = scratch / "console"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(f"\0nspawn-runner/{self.name}")
            with console.open("wb") as output:
                nspawn = subprocess.Popen(
                    [*_die_with_us(), "unshare", "--mount", "--propagation=private", "sh", "-c", START, "start",
                     scratch, tree, source, "--quiet", "--register=no", "--keep-unit", f"--machine={self.name}",
                     # the clock is the machine's own
                     "--capability=all", "--drop-capability=CAP_SYS_TIME",
                     "--console=pipe", "--private-network", "--notify-ready=yes", "--resolv-conf=off",
                     "--settings=no", "--link-journal=no",
                     f"--bind={scratch}/state:{STATE_FOLDER}", f"--bind={self.checkout}", "sh", "-c", INIT, "init",
                     *(f"systemd.mask={unit}" for unit in MASKED.split())],
                    env={**ENVIRONMENT, "CGROUPS": _words(cgroups), "NOTIFY_SOCKET": f"@nspawn-runner/{self.name}",
                         **({} if self._wants_version_1() else {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}),
                         "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1", "SYSTEMD_SECCOMP": "0"},
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
            self._undo.callback(_kill, nspawn)
            try:
                self._leader = _wait_ready(ready, nspawn)
                # nspawn then ends by itself, having reaped it; the pid is nobody else's as long as nspawn waits for it
                self._undo.callback(_kill_leader, self._leader, nspawn)
            except HostError as error:
                raise HostError(f"{error}\n{tail(console)}") from None
        self._entered = entrances(self._leader)
        self._join_network(scratch)

    def _make_state(self, scratch: Path) -> Path:
        """The folder or the file with a file system that becomes the state folder."""
        if self._state_folder:
            self._state_folder.mkdir(parents=True, exist_ok=True)
            # one host at a time: to another one the first one's machines would look like leftovers
            folder = os.open(self._state_folder, os.O_RDONLY)
            self._undo.callback(os.close, folder)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HostError(f"another host uses the state folder {self._state_folder}") from None
            return self._state_folder.resolve()
        if self.state == "overlay":
            (scratch / "state.kept").mkdir()
            return scratch / "state.kept"
        image = scratch / "state.image"
        subprocess.run(["truncate", f"--size={self._size}", image], check=True)
        made = subprocess.run([f"mkfs.{self.state}", "-q", image], capture_output=True, check=False)
        if made.returncode:
            raise HostError(f"mkfs.{self.state} failed\n{made.stderr.decode()}")
        return image

    def _wants_version_1(self) -> bool:
        """Limits act where the controllers are; systemd of trixie does not boot with version 1.

        What is left unsaid then becomes hybrid: processes are tracked with version 2, or nobody would hear of a unit
        whose last process ended.
        """
        return self.suite == "bookworm" and "memory" not in version_2_controllers()

    def _join_network(self, scratch: Path) -> None:
        read_end, write_end = os.pipe()
        with (scratch / "slirp").open("wb") as output, open(read_end, "rb") as ready:
            slirp = subprocess.Popen(
                [*_die_with_us(), "slirp4netns", "--configure", "--mtu=65520", f"--ready-fd={write_end}",
                 str(self._leader), "tap0"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[write_end], start_new_session=True,
            )  # fmt: skip
            os.close(write_end)
            self._undo.callback(_kill, slirp)
            if ready.read(1) != b"1":
                raise HostError(f"slirp4netns failed\n{tail(scratch / 'slirp')}")


def _wait_ready(ready: socket.socket, nspawn: subprocess.Popen[bytes]) -> int:
    """Give the pid of the host's PID 1, once its systemd says that it is up."""
    leader = 0
    deadline = time.monotonic() + 120
    ready.settimeout(0.2)
    while time.monotonic() < deadline:
        if nspawn.poll() is not None:
            raise HostError(f"the host ended while it booted (status {nspawn.returncode})")
        with contextlib.suppress(TimeoutError):
            fields = dict(line.split("=", 1) for line in ready.recv(65536).decode().splitlines() if "=" in line)
            leader = int(fields.get("X_NSPAWN_LEADER_PID", leader))
            if leader and fields.get("READY") == "1":
                return leader
    raise HostError("the host did not boot within two minutes")


def _die_with_us() -> list[str]:
    """A prefix by which a child dies with us. The kernel looks at the thread, so only the main one may use it."""
    return ["setpriv", "--pdeathsig", "KILL"] if threading.current_thread() is threading.main_thread() else []


def _kill_leader(leader: int, nspawn: subprocess.Popen[bytes]) -> None:
    if nspawn.poll() is None:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.kill(leader, signal.SIGKILL)
            nspawn.wait(10)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _remove_leftovers(hosts: Path) -> None:
    """Remove what hosts of killed processes left behind: nobody holds their lock any more."""
    with locked(hosts / ".lock"):
        for path in hosts.glob("host-*.lock"):
            # another's own host may end just now, and takes its lock away
            with contextlib.suppress(BlockingIOError, FileNotFoundError), path.open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                say(f"removing a leftover host: {path.stem}")
                _remove_host(path.with_suffix(""))
                path.unlink(missing_ok=True)


def _remove_host(scratch: Path) -> None:
    remove_cgroups(scratch.name)
    remove_tree(scratch)


def _raise_to(path: str, least: int) -> None:
    if int(Path(path).read_text()) < least:
        Path(path).write_text(str(least))


def _words(paths: list[Path]) -> str:
    return " ".join(map(str, paths))


def main() -> int:
    parser = argparse.ArgumentParser(description="Boots a disposable Debian host and runs a command in it.")
    parser.add_argument("--suite", choices=["bookworm", "trixie"], default="bookworm")
    parser.add_argument("--state", choices=["overlay", "ext4", "btrfs", "xfs"], default="overlay")
    parser.add_argument("--state-folder", type=Path, help="a folder to use as state folder, and to keep")
    parser.add_argument("--working-folder", default=CHECKOUT, help="where the command starts (default: the checkout)")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    missing = [tool for tool in ("systemd-nspawn", "mmdebstrap", "slirp4netns") if not shutil.which(tool)]
    if os.geteuid() or missing:
        parser.error("needs root" if os.geteuid() else f"missing here: {' '.join(missing)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    try:
        with DisposableHost(suite=arguments.suite, state=arguments.state, state_folder=arguments.state_folder) as host:
            say(f"{arguments.suite} is up after {time.monotonic() - began:.1f} s")
            # a terminal's ^C is for the command, which shares our process group
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            process = host.popen(arguments.command, cwd=arguments.working_folder, new_session=False)
            try:
                return process.wait()
            finally:
                process.kill()
    except HostError as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
