"""exec: run jobs of a .gitlab-ci.yml here and now, through the same stages as gitlab-runner's jobs."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from ..errors import JobError, UsageError, printable
from ..gitlab.job import made_up_id
from ..host import files, locks, signals, trees
from ..jobs import local_folder, local_job, local_listing, local_pipeline
from ..jobs.local_folder import LocalFolder
from ..jobs.local_job import LocalJob
from ..jobs.local_log import LocalLog
from ..jobs.local_pipeline import PipelineRun
from ..output import warn
from ..pipeline import checkout, ci_file, include_map, lint, predefined, preview, roster, variables_file
from ..pipeline import project as ci_project
from ..pipeline.event import SOURCES
from ..pipeline.predefined import RunFacts
from ..settings import paths
from ..settings.paths import RUN_FOLDER

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from ..pipeline.checkout import Checkout
    from ..pipeline.ci_file import Pipeline
    from ..pipeline.ci_job import CiJob
    from ..pipeline.event import Event
    from ..pipeline.project import Project
    from ..pipeline.roster import Roster, RosterEntry
    from ..settings.tables import Settings

HELP = "run jobs of .gitlab-ci.yml here, without GitLab"
DESCRIPTION = """Runs jobs of .gitlab-ci.yml, each in a machine of its own; the current folder is in the project.
Without JOB it lists the jobs.

One JOB writes its log to the terminal, and its script's status is the exit status. Several, --needs, --stage and
--pipeline run in the order of stages and needs, hand artifacts on, and leave logs and artifacts in .nspawn-runner in
the project; the exit status is 1 if a job failed that must not.

At the top of a git repository the project has its history; a subfolder with a file of its own is a project of its
own without history; outside git the files are used as they are. Jobs get the last commit, or with --dirty the files as
they lie (untracked ones too, ignored ones not). .gitlab-ci.yml itself is always read from the folder.

Example:  nspawn-runner exec test --image bookworm --variable LEVEL=2"""

_MOST_AT_ONCE = 4


class Known(NamedTuple):
    """What is known of the project and of the run; ``given`` are the variables of the command line."""

    args: argparse.Namespace
    project: Project
    event: Event
    run: RunFacts
    given: Mapping[str, str]
    pipeline: Pipeline
    image: str | None

    def variables(self) -> dict[str, str]:
        """Return the predefined variables."""
        return predefined.variables(self.project, self.event, self.run)

    def job(self, name: str, handed_on: Mapping[str, str] | None = None) -> CiJob:
        """Return the job ``name``, ready to run, with the variables that earlier ones ``handed_on``."""
        return self.pipeline.job(
            name,
            self.given,
            predefined=self.variables(),
            image=self.image,
            event=self.event,
            handed_on=handed_on,
        )

    def local(self, job: CiJob, packed: Checkout, workspace: str) -> LocalJob:
        """Return ``job`` with all that its run needs."""
        return LocalJob(
            job,
            self.run.job_id,
            packed,
            f"{workspace}/sources.bundle",
            f"{self.run.builds_dir}/{predefined.project_name(self.project)}",
            forced=self.image is not None,
            with_services=not self.args.without_services,
            file=self.args.config or paths.DEFAULT_FILE,
        )

    def folder(self) -> LocalFolder:
        """Return the folder where logs and artifacts stay."""
        place = self.args.artifacts or os.path.join(self.project.folder, local_folder.NAME)
        return LocalFolder(place, self.project.owner)

    def roster(self) -> Roster:
        """Return all jobs of the pipeline for the event."""
        return roster.make(self.pipeline, self.event, self.variables(), self.given, self.image)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add JOB, what else chooses jobs, what they get, and what is only shown."""
    add = parser.add_argument
    add("jobs", nargs="*", metavar="JOB", help="the job's name (default: list the jobs)")
    add("--needs", action="store_true", help="run what the jobs need first")
    add("--stage", action="append", default=[], metavar="STAGE", help="run all jobs of this stage; repeatable")
    add("--pipeline", action="store_true", help="run all jobs that GitLab would")
    add("--event", choices=list(SOURCES), help="what the pipeline is for (default: a push of the branch or tag)")
    add("--target", default="", metavar="BRANCH", help="the branch that a merge request is for")
    add("--parallel", type=int, metavar="N", help="run at most N jobs at a time")
    add("--artifacts", metavar="FOLDER", help="leave logs and artifacts here (.nspawn-runner in the project)")
    add("--image", metavar="NAME", help="boot this image whatever the job asks for")
    add("--variable", action="append", default=[], metavar="KEY=VALUE", help="set a variable of the jobs; repeatable")
    add("--variables-file", action="append", default=[], metavar="FILE", help="set variables from a file; repeatable")
    add("--input", action="append", default=[], metavar="KEY=VALUE", help="set an input of the file; repeatable")
    add(
        "--include-map",
        action="append",
        default=[],
        metavar="PREFIX=FOLDER",
        help="take included files whose URL or project begins with PREFIX from FOLDER; repeatable",
    )
    add("--without-services", action="store_true", help="run the jobs without their services")
    add("--dirty", action="store_true", help="take the files as they lie, not the last commit")
    add("--file", default=".gitlab-ci.yml", metavar="FILE", help="read this file (.gitlab-ci.yml)")
    add("--check", action="store_true", help="only say what GitLab would not take; exit status 1 if anything")
    add("--preview", action="store_true", help="only show the jobs, or all, with everything merged")
    add("--json", action="store_true", help="list the jobs as JSON")
    # What a pipeline calls for each of its jobs: the folder with all about it.
    add("--part", metavar="FOLDER", help="==SUPPRESS==")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Run the jobs, or show what there is; return the status of the job's script or of the pipeline."""
    if args.part:
        return _part(args.part, settings)
    if args.parallel is not None and args.parallel < 1:
        raise UsageError("--parallel takes a number from 1")
    known = _known(args, settings)
    for line in known.pipeline.notices.lines():
        warn(line)
    if args.check:
        found = lint.problems(known.pipeline, known.roster(), known.event, known.variables(), known.given)
        print("\n".join(printable(line) for line in found) or f"{args.file}: nothing to object to")
        return 1 if found else 0
    if args.preview:
        print(preview.text(known.pipeline, args.jobs), end="")
        return 0
    if not args.jobs and not args.stage and not args.pipeline:
        listed = local_listing.rows(known.roster().entries, settings, forced=known.image is not None)
        print(local_listing.as_json(listed) if args.json else local_listing.as_table(listed))
        return 0
    return _in_workspace(known, settings)


def _known(args: argparse.Namespace, settings: Settings) -> Known:
    project = ci_project.read(ci_project.folder_of(os.getcwd(), args.file))
    job_id = made_up_id()
    run = RunFacts(job_id, job_id, time.time(), settings.builds_dir, args.file)
    event = ci_project.event(project, args.event, args.target)
    given: dict[str, str] = {}
    for name in args.variables_file:
        given |= variables_file.read(name)
    given |= overrides(args.variable)
    event = event._replace(variables=predefined.variables(project, event, run) | given)
    mapped = (*include_map.parse(args.include_map), *include_map.of_user(os.path.expanduser("~")))
    inputs = overrides(args.input, "--input")
    pipeline = ci_file.load(project.folder, args.file, event=event, mapped=mapped, inputs=inputs)
    return Known(args, project, event, run, given, pipeline, args.image)


def _in_workspace(known: Known, settings: Settings) -> int:
    """Pack the sources into a private folder and run the jobs from there."""
    args = known.args
    chosen = _chosen(known)
    workspace = f"{settings.state_folder}/{paths.BUILDS}/exec-{known.run.job_id}"
    files.make_private_folder(RUN_FOLDER)
    # This lock tells gc that we are alive; it is held longer than the workspace exists.
    with locks.locked(f"{RUN_FOLDER}/exec-{known.run.job_id}.lock", what=f"the job {known.run.job_id}"):
        files.make_private_folder(workspace)
        try:
            bundle = f"{workspace}/sources.bundle"
            packed = checkout.pack(known.project.folder, bundle, dirty=args.dirty)
            known = known._replace(run=known.run._replace(sha=packed.sha))
            if len(chosen) == 1 and not args.needs and not args.stage and not args.pipeline:
                return _one(known, chosen[0], packed, workspace, settings)
            return _several(known, chosen, packed, workspace)
        finally:
            with signals.held():
                trees.remove(workspace)


def _chosen(known: Known) -> list[str]:
    """Return the names of the jobs to run; raises JobError for one that there is not."""
    args = known.args
    found: dict[str, None] = {}
    for name in args.jobs:
        instances = known.pipeline.instances_of(name) if name in known.pipeline.jobs else []
        found |= dict.fromkeys(each.name for each in instances or [known.pipeline.instance(name)])
    if not args.stage and not args.pipeline and not args.needs:
        return list(found)
    listed = known.roster()
    for stage in args.stage:
        if stage not in listed.stages:
            raise JobError(f"there is no stage {stage}", advice=f"stages: {', '.join(listed.stages)}")
        found |= dict.fromkeys(each.name for each in listed.entries if each.stage == stage and each.is_in)
    if args.pipeline:
        for line in lint.problems(known.pipeline, listed, known.event, known.variables(), known.given):
            warn(f"GitLab would not take it: {printable(line)}")
        workflow = known.pipeline.workflow(known.event, known.variables(), known.given)
        if not workflow.allowed:
            raise JobError(f"workflow: its rules make no pipeline for a {known.event.described()}")
        found |= dict.fromkeys(each.name for each in listed.entries if each.is_in)
    if args.needs:
        entries = [each for each in listed.entries if each.name in found]
        found |= dict.fromkeys(each.name for each in listed.with_needs(entries))
    if not found:
        raise JobError(f"no job is in a pipeline for a {known.event.described()}", advice="name the jobs to run")
    return list(found)


def _one(known: Known, name: str, packed: Checkout, workspace: str, settings: Settings) -> int:
    """Run one job with its log on our output; return the status of its script."""
    job = known.job(name)
    local = known.local(job, packed, workspace)
    log = LocalLog()
    if job.when == "never":
        log.warn(f"on GitLab this job is not in a pipeline for a {known.event.described()}")
    if not job.artifacts:
        return local_job.run(local, settings, log)
    results = f"{workspace}/job"
    folder = known.folder()  # before the job: it says what is wrong with the place
    status = local_job.run(local._replace(results=results), settings, log)
    os.close(folder.begin(name))
    for problem in folder.keep(name, results):
        log.warn(problem)
    return status


def _several(known: Known, names: Sequence[str], packed: Checkout, workspace: str) -> int:
    """Run the jobs called ``names`` in their order; return the pipeline's status."""
    listed = known.roster()
    numbers = {entry.name: number for number, entry in enumerate(listed.entries, start=1)}

    def local(entry: RosterEntry, handed_on: Mapping[str, str]) -> LocalJob:
        job_id = made_up_id(numbers[entry.name])
        now = known._replace(run=known.run._replace(job_id=job_id, began=time.time()))
        return now.local(now.job(entry.name, handed_on), packed, workspace)

    args, wanted = known.args, set(names)
    return local_pipeline.run(
        PipelineRun(
            listed,
            [entry for entry in listed.entries if entry.name in wanted],
            local,
            workspace,
            known.folder(),
            args.parallel or min(_MOST_AT_ONCE, os.cpu_count() or 1),
            by_hand=frozenset(entry.name for entry in listed.entries if _is_named(entry, args.jobs)),
            options=("--config", args.config) if args.config else (),
        )
    )


def _is_named(entry: RosterEntry, names: Sequence[str]) -> bool:
    return entry.name in names or entry.instance.base in names


def _part(folder: str, settings: Settings) -> int:
    """Run the one job that ``folder`` describes, for a pipeline, and leave its status there."""
    with open(f"{folder}/job.json", encoding="utf-8") as file:
        local = local_job.from_json(json.load(file))
    status = local_job.run(local, settings, LocalLog(colour=False))
    files.write_atomically(f"{folder}/{local_pipeline.RESULT}", json.dumps({"status": status}).encode())
    sys.stdout.flush()
    return 1 if status else 0


def overrides(given: Sequence[str], option: str = "--variable") -> dict[str, str]:
    """Return what is given as KEY=VALUE to ``option``; raises UsageError for one without =."""
    for text in given:
        if "=" not in text:
            raise UsageError(f"{option} takes KEY=VALUE, not '{printable(text, 60)}'")
    return dict(text.split("=", 1) for text in given)
