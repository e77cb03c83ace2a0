"""Tells nspawn-runner how a playbook ended: what changed, which task failed; beside what Ansible shows."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: nspawn_runner_report
    type: aggregate
    short_description: counts for nspawn-runner
    description:
        - Writes a JSON object with the counts of each host and the first task that failed to a file.
    requirements:
        - the file's path in the environment, as NSPAWN_RUNNER_REPORT
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Writes {"hosts": {HOST: {"changed": N, …}}, "failed": TASK} to the file NSPAWN_RUNNER_REPORT."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "nspawn_runner_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed = ""

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Remember the first task that fails the play."""
        if not ignore_errors and not self._failed:
            self._failed = str(result._task.get_name())

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Remember the task that could not reach the tree."""
        self.v2_runner_on_failed(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the report."""
        hosts = {host: stats.summarize(host) for host in stats.processed}
        with open(os.environ["NSPAWN_RUNNER_REPORT"], "w") as file:
            json.dump({"hosts": hosts, "failed": self._failed}, file)
