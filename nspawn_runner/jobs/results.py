"""Results of stages and jobs, in the words of journal and metrics."""

from __future__ import annotations

SUCCESS, FAILED, CANCELED, SYSTEM_FAILURE = "success", "failed", "canceled", "system failure"
