"""The limits of a job's machine: those of settings and image as numbers, and what the job may ask for."""

from __future__ import annotations

import os

from ..gitlab import installed_runner
from ..gitlab.job import LOCAL
from ..light_typing import TYPE_CHECKING
from ..settings import amounts
from ..settings.tables import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..gitlab.job import Job
    from ..settings.tables import Amounts, Limits, Settings

# The runner may spend this long on after_script, cache, artifacts and cleanup once the job's time is over.
RUNTIME_MARGIN_SECONDS = 1800


def of_job(job: Job, limits: Limits, settings: Settings) -> Amounts:
    """Return what the machine of ``job`` may use, by the ``limits`` of its image; raises JobError if it asks for more.

    Raises HostError for a bad config.toml of gitlab-runner.
    """
    found = resolved(limits, settings.state_folder)
    if job.timeout_seconds:
        # Nobody waits for a job of exec to be tidy once its time is over.
        margin = 0 if job.server == LOCAL else RUNTIME_MARGIN_SECONDS
        found = found._replace(runtime_max_seconds=job.timeout_seconds + margin)
    if job.limits_asked:
        found = amounts.lowered(found, job.limits_asked, _ceilings(job, settings))
        found = amounts.within_disk(found, state_folder=settings.state_folder)
    return found


def with_services(own: Amounts, limits: Limits, settings: Settings) -> Amounts:
    """Return what a job and its services may use together: the larger of the job's own limits and those of its image.

    A job that lowers its limits lowers those of its own machine.
    """
    unasked = resolved(limits, settings.state_folder)
    return own._replace(**{name: max(getattr(own, name), getattr(unasked, name)) for name in amounts.NUMBERS})


def resolved(limits: Limits, state_folder: str) -> Amounts:
    """Return ``limits`` as numbers; raises HostError for a bad config.toml of gitlab-runner."""
    if amounts.needs_concurrent(limits):
        limits = limits._replace(concurrent=installed_runner.concurrent(os.environ))
    return amounts.resolved(limits, state_folder=state_folder)


def _ceilings(job: Job, settings: Settings) -> Mapping[str, float]:
    if job.server == LOCAL:  # started by hand, so root asks
        return dict.fromkeys(amounts.NUMBERS, UNLIMITED)
    if not settings.policy:
        return {}
    from ..settings import policy
    from . import permission

    found = policy.allowance(settings.allowed_images, settings.policy, permission.facts(job)).ceilings
    return {name: value for name, field in policy.CEILINGS.items() if (value := getattr(found, field)) is not None}
