"""Report a playbook's result to nspawn-runner: what changed, which task failed."""

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
        - Writes a JSON object with each host's counts and the failed task to a file.
    requirements:
        - the file's path in the environment, as NSPAWN_RUNNER_REPORT
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Writes {"hosts": {HOST: {"changed": N, …}}, "unmatched": PLAYS, "failed": TASK, "message": TEXT} to a file."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "nspawn_runner_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed = self._message = ""
        self._unmatched = 0

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Count a play that matched no host."""
        self._unmatched += 1

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Remember the last task that failed: those before it may have been rescued."""
        if not ignore_errors:
            self._failed = str(result._task.get_name())
            # A task with no_log has only this field.
            known = result._result
            said = [str(known.get("msg", "")), *str(known.get("stderr", "")).strip().splitlines()[-1:]]
            self._message = ": ".join(part for part in said if part)[:300]

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Remember the task that could not reach the tree."""
        self.v2_runner_on_failed(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the report."""
        hosts = {host: stats.summarize(host) for host in stats.processed}
        with open(os.environ["NSPAWN_RUNNER_REPORT"], "w") as file:
            report = {"unmatched": self._unmatched, "failed": self._failed, "message": self._message}
            json.dump({"hosts": hosts, **report}, file)
