"""Find or start a tree's container: one per tree and Ansible run, started by the fork that asks first."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from typing import Any

from ...errors import HostError
from ...host import files, locks, process, signals
from ...names import host_name
from ...nspawn import execute
from ...settings import paths
from .. import store
from .container_main import Order

_FOLDER = paths.CONNECTIONS_FOLDER
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
_START_SECONDS = 150


def reach(
    root: str, owner: int, *, boot: bool = False, user_namespace: bool = True, private_network: bool = False
) -> execute.Container | execute.Machine:
    """Return the container of the tree ``root``, starting it if necessary; it ends with the process ``owner``.

    Raises HostError when there is no such tree or no container can start in it.
    """
    state = _state(root, owner, (boot, user_namespace, private_network))
    told = _read(state)
    if told is None:
        files.make_private_folder(_FOLDER)
        # Whatever the settings, only one start at a time per tree and run.
        with locks.locked(f"{_state(root, owner, ())}.start", what=f"the container of {root}", wait_seconds=180):
            told = _read(state)
            if told is None:
                sweep()
                told = _start(_order(root, state, boot, user_namespace, private_network), owner)
    if boot:
        return execute.Machine(told["machine"], told["uid"])
    return execute.Container(told["leader"], told["uid"])


def end(root: str, owner: int | None = None) -> None:
    """End the containers of the tree ``root`` (only those of ``owner``, if given) and wait until they are gone."""
    for held in _all_held(root, owner):
        with suppress(OSError, ValueError, ProcessLookupError):
            if locks.is_held(held):
                os.kill(int(files.read_head(held, 20)), 15)
    wait_ended(root, owner)


def wait_ended(root: str, owner: int | None = None, *, seconds: float = 60) -> None:
    """Wait until no keeper holds the tree ``root``; it ends just after its Ansible. Raises HostError on timeout."""
    deadline = time.monotonic() + seconds
    while any(locks.is_held(held) for held in _all_held(root, owner)):
        if time.monotonic() > deadline:
            raise HostError(
                f"the tree {root} is still in use by Ansible's connection", advice=f"see: fuser {_FOLDER}/*"
            )
        signals.sleep(0.01)


def _state(root: str, owner: int, settings: tuple[bool, ...]) -> str:
    """Return the path of the state file for this tree, this very process and these settings."""
    # The start time in clock ticks tells the process from a later one with its pid (proc_pid_stat(5), field 22).
    with open(f"/proc/{owner}/stat", "rb") as file:
        started = file.read().rpartition(b")")[2].split()[19].decode()
    switches = "".join("01"[setting] for setting in settings)
    return f"{_FOLDER}/{_digest(root)}-{owner}-{started}-{switches}"


def _digest(root: str) -> str:
    return hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:12]


def _all_held(root: str, owner: int | None) -> list[str]:
    return glob.glob(f"{_FOLDER}/{_digest(root)}-{owner or '*'}-*.held")


def _read(state: str) -> dict[str, Any] | None:
    """Return what a live keeper reported about its container, or None."""
    try:
        told: dict[str, Any] = json.loads(files.read_head(state, 1 << 12))
    except FileNotFoundError:
        return None
    return told if locks.is_held(f"{state}.held") and _is_there(told) else None


def _is_there(told: dict[str, Any]) -> bool:
    """Return whether the pid is still the container's: the host may have reused it.

    A booted machine is addressed by name, and gets another first process when it reboots.
    """
    try:
        if told["boot"]:
            return True
        return bool(os.readlink(f"/proc/{told['leader']}/ns/pid") == told["namespace"])
    except OSError:
        return False


def sweep() -> None:
    """Remove the files of containers whose process was killed."""
    for held in glob.glob(f"{_FOLDER}/*.held"):
        state = held.removesuffix(".held")
        if os.path.exists(state) and not locks.is_held(held):
            files.remove_file(state)
            files.remove_file(held)


def remove_files() -> None:
    """Remove the files of containers whose process was killed, and the locks of killed starts."""
    sweep()
    for path in [*glob.glob(f"{_FOLDER}/*.held"), *glob.glob(f"{_FOLDER}/*.start")]:
        locks.remove_unheld(path)


def _order(root: str, state: str, *switches: bool) -> Order:
    real = os.path.realpath(root)
    if not os.path.isdir(real):
        raise HostError(f"there is no tree {root}", advice="name an image's folder or a running machine")
    if os.geteuid():
        raise HostError("only root can start a container", advice="run ansible-playbook as root")
    name = f"connection-{os.path.basename(state).replace('-', '')}"
    return Order(real, name, host_name(store.image_of(real) or os.path.basename(real)), state, *switches)


def _start(order: Order, owner: int) -> dict[str, Any]:
    fd = os.pidfd_open(owner)
    try:
        child = process.spawn(
            [sys.executable, "-P", "-m", "nspawn_runner.images.ansible.container_main", json.dumps(order)],
            stdin=fd,
            stdout=process.PIPE,
            stderr=process.DEVNULL,
            own_session=True,
            env={"PYTHONPATH": _PACKAGE_PARENT, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    finally:
        os.close(fd)
    assert child.stdout is not None  # noqa: S101
    with child.stdout:
        said = child.stdout.read()
    child.returncode = 0  # it outlives us and is not ours to wait for
    told: dict[str, Any] = json.loads(said or b'{"error": ["the keeper of the container died", "", ""]}')
    if "error" in told:
        what, facts, advice = told["error"]
        raise HostError(what, facts=facts, advice=advice)
    return told
