"""Results of stages and jobs, as journal and metrics name them."""

from __future__ import annotations

SUCCESS, FAILED, CANCELED, SYSTEM_FAILURE = "success", "failed", "canceled", "system failure"
