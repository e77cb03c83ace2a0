"""Whether a job may use what it asks for, by allowed_images and the [[policy]] rules of the settings."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import JobError, printable
from ..images import store
from ..light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..gitlab.job import Job
    from ..settings.policy import Facts
    from ..settings.tables import Settings

_NEEDS_FACTS = "gitlab-runner before 14.1 does not say for sure whose job it is, so it gets what everybody gets"


def check_image(job: Job, image: str, asked: str, settings: Settings, file: str, *, service: bool = False) -> None:
    """Raise JobError unless the settings in ``file`` let ``job`` use ``image``, what ``asked`` means locally.

    For a ``service`` those of services count where there are any.
    """
    everybodys = settings.allowed_services if service and settings.allowed_services else settings.allowed_images
    if everybodys == ("*",):
        return
    from ..settings import policy

    known = facts(job)
    patterns = policy.allowance(everybodys, settings.policy, known).images
    if policy.gives_image(patterns, image):
        return
    key = "allowed_services" if service and settings.allowed_services else "allowed_images"
    folder = settings.state_folder
    there = store.names(folder)
    usable = [name for name in there if policy.gives_image(patterns, store.alias_of(folder, name) or name)]
    meant = "" if asked == image else f", which '{printable(asked, 100)}' means"
    raise JobError(
        f"{file} does not let this job use the image {image}{meant}{' for a service' * service}",
        facts=f"{_reason(job, image, settings, known)}; it may use: {', '.join(usable) or 'none'}",
        advice=f"use one of those, or have the admin change {key} or [[policy]]",
    )


def check_profile(job: Job, image: str, chosen: str, settings: Settings, file: str) -> None:
    """Raise JobError unless the settings in ``file`` let ``job`` have the profile ``chosen`` for machines of ``image``.

    If no rule mentions profiles, or folders, these are up to the image.
    """
    from ..settings import policy, profiles

    given = policy.allowance(settings.allowed_images, settings.policy, facts(job))
    if any(rule.profiles for rule in settings.policy) and chosen not in given.profiles:
        raise _forbidden(job, image, f"the profile {chosen}", given.profiles, file)
    if any(rule.binds for rule in settings.policy):
        for bind in map(profiles.bind, profiles.find(chosen, settings.profiles).binds):
            if not any(f"{bind.source}/".startswith(f"{folder.rstrip('/')}/") for folder in given.binds):
                raise _forbidden(job, image, f"the host's {bind.source}", given.binds, file)


def _forbidden(job: Job, image: str, what: str, given: Sequence[str], file: str) -> JobError:
    reason = "" if job.trusted else f"{_NEEDS_FACTS}; "
    return JobError(
        f"{file} does not let this job have {what}, which machines of the image {image} have",
        facts=f"{reason}its rules give it: {', '.join(given) or 'none'}",
        advice="use another image, or have the admin change [[policy]]",
    )


def facts(job: Job) -> Facts:
    """Return what is certain about whose job it is: nothing if the job itself may have set it."""
    from ..settings.policy import Facts

    if not job.trusted:
        return Facts()
    return Facts(project=job.project_path or None, protected=job.protected, runner=job.runner)


def _reason(job: Job, image: str, settings: Settings, known: Facts) -> str:
    """Return which rules would give the image, and why they do not apply here."""
    from ..settings import policy

    giving = [rule for rule in settings.policy if policy.gives_image(rule.images, image)]
    if not giving:
        return "neither allowed_images nor a rule gives it to anybody"
    reason = ", ".join(f"rule {rule.name} gives it to {policy.unmet(rule, known)}" for rule in giving)
    if not job.trusted:
        return f"{reason}; {_NEEDS_FACTS}"
    if known.project is None and any(rule.projects for rule in giving):
        return f"{reason}; its project is not certain: its variables set CI_PROJECT_PATH"
    return reason
