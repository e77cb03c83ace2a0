"""Ansible's connection `nspawn`: its options, and its calls translated into commands inside."""

from __future__ import annotations

import multiprocessing
import os
import sys

from ansible.errors import AnsibleConnectionFailure, AnsibleFileNotFound
from ansible.plugins.connection import ConnectionBase

# Ansible loads this file by its path; the rest of the package is beside it.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))))

from nspawn_runner.errors import HostError
from nspawn_runner.images.ansible import containers
from nspawn_runner.nspawn import execute

DOCUMENTATION = """
name: nspawn
author: the authors of nspawn-runner
short_description: Run tasks in a tree or a running machine of systemd-nspawn
description:
  - The host is the absolute path of a tree (an image's folder), or a running machine's name as in machinectl.
  - For a tree, one container starts at the first task and ends with the run of Ansible, however that ends.
  - Needs root on the controller, and in the tree only C(/bin/sh) (and Python for most modules).
options:
  target:
    description: The tree's absolute path or the machine's name. By default the host's address or its inventory name.
    type: string
    vars:
      - name: ansible_nspawn_target
      - name: nspawn_target
  boot:
    description:
      - Boot the tree, so that services can run. This needs systemd and dbus in the tree and systemd on the host.
      - Otherwise the container runs only what the tasks start.
    type: bool
    default: false
    vars:
      - name: ansible_nspawn_boot
      - name: nspawn_boot
  user_namespace:
    description:
      - Give the tree its own range of uids, so that its root is not the host's root.
      - On the host's network it can then neither ping nor listen on ports below 1024.
    type: bool
    default: true
    vars:
      - name: ansible_nspawn_user_namespace
      - name: nspawn_user_namespace
  private_network:
    description: Give the tree its own network, with only a loopback device, instead of the host's.
    type: bool
    default: false
    vars:
      - name: ansible_nspawn_private_network
      - name: nspawn_private_network
  executable:
    description: The shell inside that runs the commands.
    type: string
    default: /bin/sh
    vars:
      - name: ansible_executable
      - name: ansible_nspawn_executable
  pipelining:
    description: Feed modules to Python through its standard input, instead of copying each as a file first.
    type: bool
    default: true
    ini:
      - section: defaults
        key: pipelining
      - section: connection
        key: pipelining
    env:
      - name: ANSIBLE_PIPELINING
      - name: ANSIBLE_NSPAWN_PIPELINING
    vars:
      - name: ansible_pipelining
      - name: ansible_nspawn_pipelining
  fetch_max:
    description:
      - The maximum size of a fetched file in MiB. A malicious tree might send data forever.
    type: int
    default: 8192
    vars:
      - name: ansible_nspawn_fetch_max
      - name: nspawn_fetch_max
"""

class Connection(ConnectionBase):  # type: ignore[misc]
    """A connection for one task in one of Ansible's worker processes; the container lives longer."""

    transport = "nspawn"
    has_pipelining = True
    default_user = "root"
    _connected: bool

    def _connect(self) -> Connection:
        if not self._connected:
            try:
                self._place = self._reach()
            except (HostError, OSError) as error:
                raise _failure(error) from error
            self._connected = True
        return self

    def _reach(self) -> execute.Container | execute.Machine:
        target = self._target()
        if not target.startswith("/"):
            return execute.running_machine(target)
        switches = {name: self.get_option(name) for name in ("boot", "user_namespace", "private_network")}
        return containers.reach(target, _main_process(), **switches)

    def _target(self) -> str:
        # Only the play's context knows the address of a host that a task is delegated to.
        return str(self.get_option("target") or self._play_context.remote_addr)

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run ``cmd`` in a shell inside, ``in_data`` as its input, and return its status, stdout and stderr."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        done = self._run([self.get_option("executable"), "-c", str(cmd)], stdin=in_data or b"")
        return done.status, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy the controller's file ``in_path`` to ``out_path`` inside, which is opened inside."""
        super().put_file(in_path, out_path)
        try:
            source = os.open(os.fsencode(in_path), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise AnsibleFileNotFound(f"there is no file to copy: {in_path}") from error
        try:
            self._transfer('exec cat > "$1"', out_path, stdin=source)
        finally:
            os.close(source)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy the file ``in_path``, opened inside, to the controller's ``out_path``; leave no file on failure."""
        super().fetch_file(in_path, out_path)
        most_bytes = self.get_option("fetch_max") << 20
        with open(os.fsencode(out_path), "wb") as target:
            try:
                self._transfer('exec cat < "$1"', in_path, stdout=execute.Sink(target.fileno(), most_bytes))
            except BaseException:
                os.unlink(os.fsencode(out_path))
                raise

    def _transfer(
        self, script: str, path: str, *, stdin: bytes | int = b"", stdout: execute.Sink | None = None
    ) -> None:
        done = self._run(["/bin/sh", "-c", script, "sh", str(path)], stdin=stdin, stdout=stdout)
        if done.status:
            said = done.stderr.decode(errors="replace").strip()
            raise AnsibleConnectionFailure(f"cannot transfer {path} of {self._target()}: {said}")

    def _run(
        self, command: list[str], *, stdin: bytes | int = b"", stdout: execute.Sink | None = None
    ) -> execute.Ended:
        self._connect()
        try:
            return execute.run(self._place, command, stdin=stdin, stdout=stdout)
        except (HostError, OSError) as error:
            raise _failure(error) from error

    def close(self) -> None:
        """Forget the container; it keeps running for the other tasks of the play."""
        self._connected = False

    def reset(self) -> None:
        """End the tree's container; the next task starts a new one."""
        self.close()
        if self._target().startswith("/"):
            containers.end(self._target(), _main_process())


def _main_process() -> int:
    """Return the pid of ansible-playbook itself: tasks run in forks of it."""
    parent = multiprocessing.parent_process()
    return parent.pid if parent is not None and parent.pid else os.getpid()


def _failure(error: HostError | OSError) -> AnsibleConnectionFailure:
    lines = error.lines() if isinstance(error, HostError) else [str(error)]
    return AnsibleConnectionFailure("; ".join(lines))
