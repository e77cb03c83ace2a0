"""exec: run a job of .gitlab-ci.yml here and now, through the same stages as gitlab-runner's jobs."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import UsageError, printable
from ..gitlab.job import LOCAL, Job, limits_asked, made_up_id
from ..host import callers, files, locks, signals, trees
from ..jobs import accounting, job_image, job_script, machine, removal, services
from ..jobs import log as job_log
from ..machines import script
from ..output import warn
from ..pipeline import checkout, ci_file, headings, include_map, predefined, scripts
from ..pipeline import project as ci_project
from ..settings import paths
from ..settings.paths import RUN_FOLDER

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ..machines.records import Record
    from ..pipeline.ci_file import Pipeline
    from ..pipeline.ci_job import CiJob
    from ..pipeline.event import Event
    from ..pipeline.predefined import RunFacts
    from ..pipeline.project import Project
    from ..settings.tables import Settings

HELP = "run a job of .gitlab-ci.yml here, without GitLab"
DESCRIPTION = """Runs a job of .gitlab-ci.yml in a machine of its own; the current folder is the project. Without JOB it
lists the jobs.

At the top of a git repository the project has its history; a subfolder is a project of its own without history;
outside git the files are used as they are. The job gets the last commit, or with --dirty the folder's current files
(untracked ones too, ignored ones not). .gitlab-ci.yml itself is always read from the folder. The exit status is that of
the job's script.

Example:  nspawn-runner exec test --image bookworm --variable LEVEL=2"""

# Where the machine sees the packed sources.
_BUNDLE = f"{paths.INSIDE_FOLDER}/sources.bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add JOB, --image, --variable, --dirty and --file."""
    parser.add_argument("job", nargs="?", metavar="JOB", help="the job's name (default: list the jobs)")
    parser.add_argument("--image", metavar="NAME", help="boot this image whatever the job asks for")
    parser.add_argument(
        "--variable", action="append", default=[], metavar="KEY=VALUE", help="set a variable of the job; repeatable"
    )
    parser.add_argument(
        "--include-map",
        action="append",
        default=[],
        metavar="PREFIX=FOLDER",
        help="take included files whose URL or project begins with PREFIX from FOLDER; repeatable",
    )
    parser.add_argument(
        "--input", action="append", default=[], metavar="KEY=VALUE", help="set an input of the file; repeatable"
    )
    parser.add_argument("--without-services", action="store_true", help="run the job without its services")
    parser.add_argument("--dirty", action="store_true", help="take the files as they lie, not the last commit")
    parser.add_argument("--file", default=".gitlab-ci.yml", metavar="FILE", help="read this file (.gitlab-ci.yml)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Run the job, or list the jobs; return the status of the job's script."""
    project = ci_project.read(ci_project.folder_of(os.getcwd(), args.file))
    job_id = made_up_id()
    run = predefined.RunFacts(job_id, job_id, time.time(), settings.builds_dir, args.file)
    event = ci_project.event(project, None)
    event = event._replace(variables=predefined.variables(project, event, run) | overrides(args.variable))
    mapped = (*include_map.parse(args.include_map), *include_map.of_user(os.path.expanduser("~")))
    inputs = overrides(args.input, "--input")
    pipeline = ci_file.load(project.folder, args.file, event=event, mapped=mapped, inputs=inputs)
    for line in pipeline.notices.lines():
        warn(line)
    if args.job is None:
        print("\n".join(pipeline.jobs))
        return 0
    workspace = f"{settings.state_folder}/{paths.BUILDS}/exec-{job_id}"
    files.make_private_folder(RUN_FOLDER)
    # This lock tells gc that we are alive; it is held longer than the workspace exists.
    with locks.locked(f"{RUN_FOLDER}/exec-{job_id}.lock", what=f"the job {job_id}"):
        files.make_private_folder(workspace)
        try:
            return _run_job(
                args, settings, pipeline, project=project, event=event, run=run, bundle=f"{workspace}/sources.bundle"
            )
        finally:
            with signals.held():
                trees.remove(workspace)


def _run_job(
    args: argparse.Namespace,
    settings: Settings,
    pipeline: Pipeline,
    *,
    project: Project,
    event: Event,
    run: RunFacts,
    bundle: str,
) -> int:
    job_id = run.job_id
    packed = checkout.pack(project.folder, bundle, dirty=args.dirty)
    name = predefined.project_name(project)
    known = predefined.variables(project, event, run._replace(sha=packed.sha))
    ci_job = pipeline.job(args.job, overrides(args.variable), predefined=known, image=args.image, event=event)
    log = _Log()
    kept_out = [f"on GitLab this job is not in a pipeline for a {event.described()}"] if ci_job.when == "never" else []
    for note in (*packed.notes, *ci_job.warnings, *kept_out):
        log.say(headings.warning(note, colour=log.colour))
    if ci_job.ignored:
        log.say(headings.warning(f"ignored here: {', '.join(ci_job.ignored)}", colour=log.colour))
    variables = dict(ci_job.variables)
    job = Job(
        job_id,
        server=LOCAL,
        limits_asked=limits_asked(variables.items()),
        services=None if args.without_services else list(ci_job.services),
        variables=[{"key": key, "value": value, "public": True, "raw": True} for key, value in variables.items()],
    )
    try:
        log.section(headings.PREPARE)
        began = time.monotonic()
        options = [f"--bind-ro={bundle}:{_BUNDLE}"]
        with accounting.StageEntry("prepare", settings=settings) as entry:
            entry.about(job)
            image = job_image.find(ci_job.image or settings.default_image, settings)
            own = job_image.settings_of(image, settings)
            wanted = services.find(job, settings, args.config or paths.DEFAULT_FILE, by_hand=True)
            owner = callers.this_process()
            record = machine.boot(
                job, image, settings, own, owner=owner, entry=entry, binds=options, wanted=wanted
            )
        log.say(machine.report(record, time.monotonic() - began))
        project_dir = f"{settings.builds_dir}/{name}"
        try:
            return _run_stages(record, settings, log, ci_job=ci_job, packed=packed, project_dir=project_dir)
        finally:
            job_log.tell_end(record)
    finally:
        log.section(headings.CLEANUP)
        with signals.held(), accounting.StageEntry("cleanup", settings=settings) as entry:
            entry.about(job)
            removal.remove(job.id, job.server, settings, keep=True, entry=entry)


def _run_stages(
    record: Record, settings: Settings, log: _Log, *, ci_job: CiJob, packed: checkout.Checkout, project_dir: str
) -> int:
    """Run sources, script and after_script in the machine; return the status that decides the job's result."""

    def stage(title: str, name: str, content: bytes) -> int:
        log.section(title)
        grace = settings.stop_grace_seconds

        def script_in_machine() -> int:
            result = script.run(record, content, name, shell=record.shell, grace_seconds=grace)
            job_script.tell(result, record)
            return result.status

        with accounting.StageEntry("run", name, settings=settings) as entry:
            entry.in_machine(record)
            entry.status = job_log.run(
                record,
                name,
                script_in_machine,
                decides=name != "after_script",
                may_be_last=lambda **_: False,  # _run_job tells the end
                journals=job_log.wants_journals(dict(ci_job.variables).get("CI_DEBUG_SERVICES")),
            )
        return entry.status

    strategy = dict(ci_job.variables).get("GIT_STRATEGY", "clone")
    sources = scripts.get_sources(
        _BUNDLE,
        project_dir,
        sha=packed.sha,
        ref=packed.ref,
        tag=packed.tag,
        shallow=packed.shallow,
        strategy=strategy,
    )
    status = stage(headings.GET_SOURCES, "get_sources", sources)
    if status == 0:
        status = stage(
            headings.BUILD_SCRIPT, "build_script", scripts.build_script(ci_job, project_dir, colour=log.colour)
        )
        if ci_job.after_script:
            word = "failed" if status else "success"
            content = scripts.after_script(ci_job, project_dir, word, colour=log.colour)
            after = stage(headings.AFTER_SCRIPT, "after_script", content)
            if after:
                log.say(headings.after_script_failed(after, colour=log.colour))
    log.say(
        headings.failed(f"exit code {status}", colour=log.colour) if status else headings.succeeded(colour=log.colour)
    )
    return status


def overrides(given: Sequence[str], option: str = "--variable") -> dict[str, str]:
    """Return what is given as KEY=VALUE to ``option``; raises UsageError for one without =."""
    for text in given:
        if "=" not in text:
            raise UsageError(f"{option} takes KEY=VALUE, not '{printable(text, 60)}'")
    return dict(text.split("=", 1) for text in given)


class _Log:
    """Our own lines in the job's log; flushed, since the scripts write to the same stream directly.

    If nobody reads them any more, as behind head(1), the job continues and is cleaned up without them.
    """

    def __init__(self) -> None:
        self.colour = headings.colour_wanted(sys.stdout, os.environ)

    def section(self, title: str) -> None:
        """Begin a section."""
        self.say(headings.section(title, colour=self.colour))

    def say(self, line: str) -> None:
        """Write a line."""
        with suppress(OSError):
            print(line, flush=True)
