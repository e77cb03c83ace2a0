"""Boot a job's machine, with its caches and gitlab-runner's helper in it."""

from __future__ import annotations

import os
from functools import partial

from ..gitlab import installed_runner
from ..light_typing import TYPE_CHECKING
from ..machines import plan, start
from ..settings.profiles import DEFAULT
from . import caches, job_image, job_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..gitlab.job import Job
    from ..images import store
    from ..machines.records import Record
    from ..settings.machine_settings import MachineSettings
    from ..settings.tables import Settings
    from .accounting import StageEntry
    from .services import JobService

# Where scripts look for the helper, in this order.
_HELPER_PATHS = tuple(f"/usr/{folder}/gitlab-runner" for folder in ("local/sbin", "local/bin", "sbin", "bin"))


def report(record: Record, took_seconds: float) -> str:
    """Return the line for the job's log on what was booted."""
    generation = f", generation {record.generation}" if record.generation else ""
    profile = "" if record.profile == DEFAULT else f", profile {record.profile}"
    return f"image {record.image}{generation}{profile}, machine {record.machine}, ready in {took_seconds:.2f} s"


def boot(
    job: Job,
    image: store.Image,
    settings: Settings,
    own: MachineSettings,
    *,
    owner: str,
    entry: StageEntry,
    binds: Sequence[str] = (),
    wanted: Sequence[JobService] = (),
) -> Record:
    """Boot the machine of ``job`` from ``image`` with its ``own`` settings; ``binds`` are options of systemd-nspawn.

    With it boot the machines of its services, ``wanted``, as services.find returns them. When the process ``owner`` has
    ended, gc removes them.
    """
    entry.image = image.name
    planned = plan.make(
        settings,
        own,
        job_limits.of_job(job, own.limits, settings),
        job=job.id,
        server=job.server,
        project=job.project,
        image=image.name,
        generation=image.generation,
        root=image.root,
        binds=[*_cache_options(job, settings, own), *_helper_options(image.root, settings), *binds],
        environment=job_image.environment(image, settings),
        owner=owner,
    )
    # Whose job it is a project could make up otherwise.
    if own.keep_builds and job.trusted and (scope := _scope(job, own)):
        # Another image may have another user of that name.
        scope += f"-{image.name}" if own.user not in {"", "root"} else ""
        planned = planned._replace(claim_builds=partial(caches.claim_builds, settings.state_folder, scope))
    if not wanted:
        return entry.in_machine(start.start(planned))
    from . import services  # of few jobs

    services.check_network(own)
    names = services.names(wanted)
    planned = planned._replace(
        names=names,
        token=os.urandom(16).hex(),
        network=services.without(own.network, names),
        ceiling=job_limits.with_services(planned.amounts, own.limits, settings),
    )
    return entry.in_machine(services.start_all(planned, wanted, job, settings))


def _scope(job: Job, own: MachineSettings) -> str:
    """Return what is kept for later jobs of the kind of ``job`` alone: of its server, project and ref protection.

    So no project reads another's. It is per user too, as one user cannot access most of what another writes. Empty
    where the project is not known.
    """
    if not job.project or not job.server:
        return ""
    scope = f"{caches.prefix(job.server, job.project)}{'protected' if job.protected else 'unprotected'}"
    return scope if own.user in {"", "root"} else f"{scope}-{own.user}"


def _cache_options(job: Job, settings: Settings, own: MachineSettings) -> list[str]:
    """Return the option that binds the job's cache."""
    scope = _scope(job, own)
    if not scope:
        return []
    folder = caches.use(settings.state_folder, scope)
    idmap = ":idmap" if own.user_namespace else ""
    return [f"--bind={folder}:{settings.cache_dir}{idmap}"]


def _helper_options(root: str, settings: Settings) -> list[str]:
    """Bind the host's gitlab-runner, which artifacts and cache need, into the machine, over the image's own.

    The image's may be another version that lacks the options that the host's passes to it.
    """
    helper = installed_runner.program(settings.gitlab_runner)
    if not helper:
        return []
    from ..host import beneath

    # systemd-nspawn follows links as the machine would. A link may lead to a program with several names: leave that.
    places = [path for path in _HELPER_PATHS if beneath.file_name(root, path).startswith("gitlab-runner")]
    if not set(places) & set(_HELPER_PATHS[:2]):
        # A machine does not start if a bind covers a folder, or a link to itself.
        places += [path for path in reversed(_HELPER_PATHS[:2]) if beneath.is_free(root, path)][:1]
    return [f"--bind-ro={os.path.realpath(helper)}:{path}" for path in places]
