"""prepare: boot the job's machine, with its caches and gitlab-runner's helper in it."""

from __future__ import annotations

import os
import sys
import time

from ..gitlab import host_runner
from ..gitlab import job as jobs
from ..host import callers
from ..light_typing import TYPE_CHECKING
from ..machines import network, resolvers, start
from ..profiles import DEFAULT
from ..settings import DEFAULT_FILE
from . import caches, job_image, job_limits, permission, story

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ..gitlab.job import Job
    from ..images import store
    from ..machines.records import Record
    from ..settings import Settings

# Where scripts look for it, in this order.
_HELPER_PATHS = tuple(f"/usr/{folder}/gitlab-runner" for folder in ("local/sbin", "local/bin", "sbin", "bin"))

HELP = "stage: boot the job's machine"
DESCRIPTION = """Boots the machine of a job from an image: IMAGE, else the one the job asks for, else the default.

By hand:  nspawn-runner prepare --id 1 bookworm
          nspawn-runner run --id 1 ./script
          nspawn-runner cleanup --id 1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add IMAGE, --default-image and --id."""
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="boot this image whatever the job asks for")
    parser.add_argument("--default-image", metavar="NAME", help="image of jobs that ask for none (default: settings)")
    parser.add_argument("--id", metavar="ID", help="the job's id (default: what gitlab-runner says)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Boot the machine and say in one line which."""
    began = time.monotonic()
    job = story.about(jobs.from_environment(os.environ, job_id=args.id))
    asked = args.image if args.image is not None else job.image or args.default_image or settings.default_image
    image = job_image.find(asked, settings)
    if args.id is None:  # by hand it is root who asks
        permission.check_image(job, image.name, asked, settings, args.config or DEFAULT_FILE)
    settings = job_image.settings_of(image, settings)
    if args.id is None and settings.policy:
        permission.check_profile(job, image.name, settings, args.config or DEFAULT_FILE)
    record = boot(job, image, settings, owner=callers.gitlab_runner())
    print(report(record, time.monotonic() - began))
    if job.services:
        _warn("the job asks for services, which there are none of here yet: it runs without them")
    if record.network == network.PRIVATE and (lack := resolvers.lack(settings.network)):
        _warn(f"names cannot be found in the machine: {lack}")
    return 0


def _warn(text: str) -> None:
    print(f"nspawn-runner: WARNING: {text}", file=sys.stderr)


def report(record: Record, took_seconds: float) -> str:
    """Return the line for the job's log that says what was booted."""
    generation = f", generation {record.generation}" if record.generation else ""
    profile = "" if record.profile == DEFAULT else f", profile {record.profile}"
    return f"image {record.image}{generation}{profile}, machine {record.machine}, ready in {took_seconds:.2f} s"


def boot(job: Job, image: store.Image, settings: Settings, *, owner: str, binds: Sequence[str] = ()) -> Record:
    """Boot the machine of ``job`` from ``image`` with its ``settings``; ``binds`` are options of systemd-nspawn.

    When the process ``owner`` has ended, gc removes it.
    """
    story.image(image.name)
    settings = job_limits.of_job(job, settings)
    options = [*_cache_options(job, settings), *_helper_options(image.root, settings), *binds]
    wish = start.Wish(
        job=job.id,
        server=job.server,
        project=job.project,
        image=image.name,
        generation=image.generation,
        root=image.root,
        binds=options,
        environment=job_image.environment(image),
        owner=owner,
    )
    return story.machine(start.start(wish, settings))


def _cache_options(job: Job, settings: Settings) -> list[str]:
    """Bind the job's own cache: a folder per server, project and protectedness, so that no project reads another's.

    One per user too: what one user writes there is mostly out of the other's reach.
    """
    if not job.project or not job.server:
        return []
    scope = f"{caches.prefix(job.server, job.project)}{'protected' if job.protected else 'unprotected'}"
    if settings.user not in {"", "root"}:
        scope += f"-{settings.user}"
    folder = caches.use(settings.state_folder, scope)
    idmap = ":idmap" if settings.user_namespace else ""
    return [f"--bind={folder}:{settings.cache_dir}{idmap}"]


def _helper_options(root: str, settings: Settings) -> list[str]:
    """Bind the host's gitlab-runner, which artifacts and cache need, into the machine, and over the image's own.

    That may be of another version, and not know the options that the host's calls it with.
    """
    helper = host_runner.program(settings.gitlab_runner)
    if not helper:
        return []
    from ..host import beneath

    # systemd-nspawn follows links as the machine would. One may lead to a program of several names, which has to stay.
    places = [path for path in _HELPER_PATHS if beneath.file_name(root, path).startswith("gitlab-runner")]
    if not set(places) & set(_HELPER_PATHS[:2]):
        # A machine does not start with a bind over a folder, or over a link to itself.
        places += [path for path in reversed(_HELPER_PATHS[:2]) if beneath.is_free(root, path)][:1]
    return [f"--bind-ro={os.path.realpath(helper)}:{path}" for path in places]
