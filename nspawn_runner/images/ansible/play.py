"""Run a playbook in a tree over our connection; its tasks reach only what the play names."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from ...errors import HostError
from ...host import files, process, signals
from ...settings import paths
from .. import callback_plugins, connection_plugins, program_log
from ..progress import Progress
from ..spec import Spec
from . import containers

FOLDER = paths.MAINTENANCE_FOLDER
_END_SECONDS = 10
_TASK = re.compile(r"(?:TASK|RUNNING HANDLER) \[(.*)\]")


class Played(NamedTuple):
    """How many tasks changed the tree, or with ``check`` would have, and whether any play matched it."""

    changed: int
    concerned: bool


@contextmanager
def player(spec: Spec, target: str, *, user_namespace: bool, log: str, progress: Progress) -> Iterator[Player]:
    """Yield a Player that runs the playbook of ``spec`` in ``target``, a tree or a running machine's name.

    Cleans up on exit. Only one can run at a time per image, because each recreates the image's folder.
    """
    folder = os.path.join(FOLDER, spec.image)
    files.make_private_folder(os.path.dirname(FOLDER))
    files.make_private_folder(FOLDER)
    files.remove_tree(folder)
    files.make_private_folder(folder)
    try:
        host = {
            "ansible_connection": "nspawn",
            "nspawn_target": target,
            "nspawn_user_namespace": user_namespace,
            # Inside the tree's container. Each task makes a private folder there; one of root's would shut out others.
            "ansible_remote_tmp": "/tmp",  # noqa: S108
            "ansible_python_interpreter": "auto_silent",
        }
        inventory = {"all": {"hosts": {spec.image: host}}}
        files.write_atomically(f"{folder}/inventory.json", json.dumps(inventory, indent=1).encode())
        yield Player(spec, folder, log, progress)
    finally:
        with signals.held():
            containers.end(target)
            files.remove_tree(folder)


class Player:
    """Runs one playbook; see ``player``."""

    def __init__(self, spec: Spec, folder: str, log: str, progress: Progress) -> None:
        self._spec = spec
        self._folder = folder
        self._log = log
        self._progress = progress

    def check_syntax(self) -> None:
        """Raise HostError when Ansible cannot read the playbook, its roles or what it includes."""
        ended = self._run("checking the playbook's syntax", "--syntax-check")
        if ended.status:
            self._progress.conclude(ended.last)
            raise HostError(f"Ansible cannot read {self._spec.playbook}", facts=f"its whole output: {self._log}")

    def play(self, *, check: bool = False) -> Played:
        """Run it (with ``check``, changing nothing) and return what changed; HostError names a failed task."""
        ended = self._run("playing the playbook", *(["--check"] if check else []))
        report = self._report()
        if ended.status:
            self._progress.conclude(ended.last)
            task, said = report.get("failed"), report.get("message")
            raise HostError(
                f"the playbook failed in task '{task}'" if task else f"ansible-playbook failed: status {ended.status}",
                facts=f"{said}; Ansible's whole output: {self._log}" if said else f"its whole output: {self._log}",
            )
        hosts = report.get("hosts", {})
        counts = hosts.get(self._spec.image, {})
        # A play without tasks counts no host.
        return Played(counts.get("changed", 0), bool(counts) or not (hosts or report.get("unmatched")))

    def _run(self, phase: str, *options: str) -> program_log.EndedProgram:
        playbook = self._spec.playbook
        task = ""

        def heard(line: str) -> None:
            nonlocal task
            self._progress.heard(line)
            begun = _TASK.match(line)
            task = begun[1] if begun else task
            self._progress.show(phase, detail=task)

        program = _program()
        if not shutil.which(program, path=process.environment()["PATH"]):
            raise process.missing([program])
        argv = ["setpriv", "--pdeathsig", "KILL", "--", program, *options]
        argv += [f"--inventory={self._folder}/inventory.json", "--", playbook]
        # Roles, files and perhaps an ansible.cfg are in this folder.
        where = os.path.dirname(playbook)
        return program_log.run(argv, log=self._log, heard=heard, end=_end, env=self._environment(), cwd=where)

    def _environment(self) -> dict[str, str]:
        return {
            "ANSIBLE_CONNECTION_PLUGINS": connection_plugins.FOLDER,
            "ANSIBLE_CALLBACK_PLUGINS": callback_plugins.FOLDER,
            "ANSIBLE_CALLBACKS_ENABLED": "nspawn_runner_report",
            "NSPAWN_RUNNER_REPORT": f"{self._folder}/report.json",
            "ANSIBLE_INVENTORY_ENABLED": "yaml",
            "ANSIBLE_LOCAL_TEMP": f"{self._folder}/local",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_NOCOWS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def _report(self) -> dict[str, Any]:
        try:
            report: dict[str, Any] = json.loads(files.read_head(f"{self._folder}/report.json", 1 << 20))
        except (FileNotFoundError, ValueError):
            return {}
        return report


def _program() -> str:
    """Return the ansible-playbook installed beside our own Python, as in a virtual environment, else any."""
    beside = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    return beside if os.access(beside, os.X_OK) else "ansible-playbook"


def _end(child: process.Popen) -> None:
    """End Ansible with all its forks, first gently, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(process.TimeoutExpired):
                child.wait(_END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # forks that outlived it
    if child.stdout:
        child.stdout.close()
