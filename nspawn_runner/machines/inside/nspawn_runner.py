"""Ansible's connection nspawn_runner, in the machine of a job: root of one of the job's own services."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: nspawn_runner
short_description: run tasks in the machine of a service of this job
description:
  - The host's name is the service's. nspawn-runner inventory prints an inventory with all of them.
options: {}
"""
_NO_ANSWER = 255


class Connection(ConnectionBase):  # type: ignore[misc]
    """Runs commands and copies files by the command nspawn-runner, which knows the job's services."""

    transport = "nspawn_runner"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        """Run ``cmd`` in the service's shell; returns its status, output and errors."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return self._run(cmd, in_data or b"")

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file to the service."""
        super().put_file(in_path, out_path)
        with open(in_path, "rb") as file:
            self._checked(f"cat > {shlex.quote(out_path)}", file.read())

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file from the service."""
        super().fetch_file(in_path, out_path)
        content = self._checked(f"cat {shlex.quote(in_path)}", b"")
        with open(out_path, "wb") as file:
            file.write(content)

    def close(self) -> None:
        """Nothing is kept open."""
        self._connected = False

    def _checked(self, script: str, given: bytes) -> bytes:
        status, out, err = self._run(script, given)
        if status:
            raise AnsibleConnectionFailure(err.decode(errors="replace"))
        return out

    def _run(self, script: str, given: bytes) -> tuple[int, bytes, bytes]:
        host: Any = self._play_context.remote_addr
        argv = ["nspawn-runner", "run", str(host), "/bin/sh", "-c", script]
        done = subprocess.run(argv, input=given, capture_output=True, check=False)
        if done.returncode == _NO_ANSWER and done.stderr.startswith(b"nspawn-runner: "):
            raise AnsibleConnectionFailure(done.stderr.decode(errors="replace"))
        return done.returncode, done.stdout, done.stderr
