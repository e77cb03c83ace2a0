"""The limits of a job's machine: those of settings and image as numbers, and what the job asks for within them."""

from __future__ import annotations

import os

from ..gitlab import installed_runner
from ..gitlab.job import LOCAL
from ..light_typing import TYPE_CHECKING
from ..settings import amounts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..gitlab.job import Job
    from ..settings.load import Settings

# The runner may spend this long on after_script, cache, artifacts and cleanup once the job's time is over.
RUNTIME_MARGIN_SECONDS = 1800


def of_job(job: Job, settings: Settings) -> Settings:
    """Return ``settings`` with the limits for the machine of ``job``; raises JobError where it wishes too much."""
    settings = settled(settings)
    limits = settings.limits
    if job.timeout_seconds:
        limits = limits._replace(runtime_max_seconds=job.timeout_seconds + RUNTIME_MARGIN_SECONDS)
    if job.wishes:
        limits = amounts.lowered(limits, job.wishes, _ceilings(job, settings))
        limits = amounts.within_disk(limits, state_folder=settings.state_folder)
    return settings._replace(limits=limits)


def settled(settings: Settings) -> Settings:
    """Return ``settings`` with numbers in the place of ``auto`` and shares; raises HostError for a bad config.toml."""
    limits = settings.limits
    if amounts.needs_concurrent(limits):
        limits = limits._replace(concurrent=installed_runner.concurrent(os.environ))
    return settings._replace(limits=amounts.settled(limits, state_folder=settings.state_folder))


def _ceilings(job: Job, settings: Settings) -> Mapping[str, float]:
    if job.server == LOCAL:  # by hand it is root who asks
        return dict.fromkeys(amounts.LEAST, amounts.UNLIMITED)
    if not settings.policy:
        return {}
    from ..settings import policy
    from . import permission

    found = policy.allowance(settings.allowed_images, settings.policy, permission.facts(job)).ceilings
    return {name: value for name, field in policy.CEILINGS.items() if (value := getattr(found, field)) is not None}
