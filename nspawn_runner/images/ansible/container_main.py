"""The process that keeps a tree's container running for one run of Ansible, and ends with it.

Its argument is the order as JSON, its stdin a pidfd of Ansible's main process, its stdout the pipe for the answer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import time
from contextlib import ExitStack, suppress
from typing import NamedTuple

from ...errors import Cancelled, HostError
from ...host import files, locks, process, signals
from ...nspawn import execute, tree_shell

_START_SECONDS = 120
_END_SECONDS = 30
_CREDENTIALS = struct.Struct("iII")  # of the sender: pid, uid, gid (unix(7))
_STOPPED = "the container was stopped before it was up"


class Order(NamedTuple):
    """What to keep running: the tree's real path, our name for it, and the path of the state file."""

    root: str
    machine: str
    hostname: str
    state: str
    boot: bool
    user_namespace: bool
    private_network: bool


def nspawn_argv(order: Order) -> list[str]:
    """Return the command line of systemd-nspawn, which shuts down cleanly when we die."""
    if not order.boot:
        # The shell exits at the end of its input, which we hold open. It is the first process instead of nspawn's own
        # init, whose name Ansible would take for a service manager. While the shell waits for the subshell, it
        # reaps orphans.
        argv = tree_shell.nspawn_argv(
            order.root,
            order.machine,
            ["/bin/sh", "-c", "echo; (read -r _); exit"],
            user_namespace=order.user_namespace,
            interactive=False,
            death_signal="TERM",
        )
        at = argv.index("--as-pid2")
        return [*argv[:at], f"--hostname={order.hostname}", *_network(order), *argv[at + 1 :]]
    return tree_shell.boot_argv(
        order.root, order.machine, order.hostname, _network(order), user_namespace=order.user_namespace
    )


def _network(order: Order) -> list[str]:
    return ["--private-network"] if order.private_network else []


def keep(order: Order, ansible: int) -> None:
    """Keep the container running until it or the process of the pidfd ``ansible`` ends, then clean up."""
    with ExitStack() as stack:
        stack.enter_context(locks.locked(f"{order.state}.held", what=order.root))
        stack.enter_context(tree_shell.resolver_taken_back(order.root))
        if order.boot:
            stack.enter_context(tree_shell.machine_id_taken_back(order.root))
        stack.callback(_remove_leftovers, order.machine)
        child, leader = _start(order, ansible, stack)
        stack.callback(files.remove_file, order.state)
        told = {
            "boot": order.boot,
            "machine": order.machine,
            "leader": leader,
            "namespace": os.readlink(f"/proc/{leader}/ns/pid"),
            "uid": execute.root_uid(leader),
        }
        files.write_atomically(order.state, json.dumps(told).encode())
        _answer(told)
        signals.wait([ansible, os.pidfd_open(child.pid)])


def _start(order: Order, ansible: int, stack: ExitStack) -> tuple[process.Popen, int]:
    """Start nspawn, wait until it is ready, and return it with the pid of the container's first process."""
    ready = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    ready.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ready.bind("")  # the kernel picks an abstract name (unix(7), autobind)
    # The tree's shell inherits it too, so it must not be able to block nspawn or fill the host's disk.
    log, log_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    stack.callback(os.close, log)
    with os.fdopen(log_end, "wb"):
        child = process.spawn(
            nspawn_argv(order),
            stdin=process.PIPE,
            stdout=process.DEVNULL if order.boot else process.PIPE,
            stderr=log_end,
            own_session=True,
            env={"NOTIFY_SOCKET": "@" + ready.getsockname()[1:].decode()},
        )
    stack.callback(_end, child, order.boot)
    # Without a boot, the first output of the tree's shell shows that it is up.
    shell, is_up = child.stdout.fileno() if child.stdout else None, order.boot
    told: dict[str, str] = {}
    deadline = time.monotonic() + _START_SECONDS
    while True:
        waited_for = [ready.fileno(), ansible, *([] if shell is None else [shell])]
        readable = signals.wait(waited_for, 0.1)
        if ansible in readable or time.monotonic() > deadline:
            raise HostError(_STOPPED, facts=f"tree: {order.root}; {_last_words(log)}")
        if ready.fileno() in readable:
            told.update(_notified(ready, child.pid))
        if shell is not None and shell in readable:
            is_up = bool(os.read(shell, 1))
            shell = None
        if told.get("READY") == "1" and "X_NSPAWN_LEADER_PID" in told and is_up:
            return child, int(told["X_NSPAWN_LEADER_PID"])
        if child.poll() is not None:
            raise HostError(
                f"systemd-nspawn could not start in the tree {order.root}",
                facts=_last_words(log),
                advice=_advice(order),
            )


def _notified(ready: socket.socket, sender: int) -> dict[str, str]:
    """Return the fields of a message on the socket ``ready`` (sd_notify(3)); empty unless ``sender`` sent it.

    On the host's network, the tree's own processes can reach the socket too and could name any pid of the host.
    """
    message, attached, _, _ = ready.recvmsg(1 << 16, socket.CMSG_SPACE(_CREDENTIALS.size))
    pids = [_CREDENTIALS.unpack(data)[0] for level, kind, data in attached if kind == socket.SCM_CREDENTIALS]
    if pids != [sender]:
        return {}
    return dict(line.split("=", 1) for line in message.decode(errors="replace").splitlines() if "=" in line)


def _advice(order: Order) -> str:
    needed = "/bin/sh, systemd and dbus in the tree" if order.boot else "/bin/sh in the tree"
    if not order.user_namespace:
        return f"it needs {needed}, and nothing else may be running it"
    return f"it needs {needed}, nothing else may be running it, and its file system must allow idmapping (no overlay)"


def _end(child: process.Popen, boot: bool) -> None:
    """Shut the container down, by force if need be, and wait until its nspawn has cleaned up."""
    if child.stdin:
        child.stdin.close()
    for signal_number in (signal.SIGTERM if boot else 0, signal.SIGTERM, signal.SIGKILL):
        if signal_number:
            with suppress(ProcessLookupError):
                child.send_signal(signal_number)
        with suppress(process.TimeoutExpired):
            child.wait(_END_SECONDS)
            return


def _remove_leftovers(machine: str) -> None:
    """Remove the empty folders that nspawn leaves for ``machine``."""
    for kind in ("propagate", "unix-export"):
        files.remove_folder(f"/run/systemd/nspawn/{kind}/{machine}")


def _last_words(log: int) -> str:
    try:
        said = os.read(log, 1 << 16).decode(errors="replace").strip()
    except BlockingIOError:
        said = ""
    return said.rpartition("\n")[2] or "systemd-nspawn said nothing"


def _answer(told: object) -> None:
    """Report the result, once, to the process that started us if it still exists."""
    with suppress(OSError):
        os.write(1, json.dumps(told).encode())
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def main() -> int:
    """Carry out the order given on the command line."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signals.heed()
    try:
        keep(Order(*json.loads(sys.argv[1])), 0)
    except Cancelled:
        return 0
    except HostError as error:
        _answer({"error": [error.what, error.facts, error.advice]})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
