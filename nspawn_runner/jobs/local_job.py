"""Run one job of a .gitlab-ci.yml in a machine of its own, through the same stages as gitlab-runner's jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..gitlab.job import LOCAL, Job, limits_asked
from ..host import callers, signals
from ..light_typing import TYPE_CHECKING
from ..machines import script
from ..output import human_size
from ..pipeline import artifact_choice, artifact_scripts, headings, scripts
from ..pipeline.checkout import Checkout
from ..pipeline.ci_job import Artifacts, CiJob, Need
from ..settings import paths
from . import accounting, artifact_files, job_image, job_script, machine, removal, services
from . import log as job_log
from .local_log import LocalLog

if TYPE_CHECKING:
    from ..machines.records import Record
    from ..settings.tables import Settings

# Where the machine sees the packed sources, artifacts of earlier jobs, and puts its own.
_BUNDLE = f"{paths.INSIDE_FOLDER}/sources.bundle"
_GIVEN = f"{paths.INSIDE_FOLDER}/artifacts-of-others"
_OUT = f"{paths.INSIDE_FOLDER}/artifacts"


class LocalJob(NamedTuple):
    """All that a run of a job needs: the job, its sources, folders on the host.

    ``given`` is a folder of archives of earlier jobs, ``results`` one for its own; both empty for none. ``forced`` is
    the image of the command line, which no setting maps to another. ``file`` is the settings file.
    """

    job: CiJob
    job_id: str
    packed: Checkout
    bundle: str
    project_dir: str
    given: str = ""
    results: str = ""
    forced: bool = False
    with_services: bool = True
    file: str = paths.DEFAULT_FILE


def to_json(local: LocalJob) -> dict[str, Any]:
    """Return ``local`` as JSON can hold it."""
    job = local.job._asdict()
    job["artifacts"] = local.job.artifacts._asdict() if local.job.artifacts else None
    job |= {key: sorted(job[key]) for key in ("allowed_codes", "retry_when")}
    return {**local._asdict(), "job": job, "packed": local.packed._asdict()}


def from_json(data: Mapping[str, Any]) -> LocalJob:
    """Return what ``to_json`` made JSON of."""
    job = dict(data["job"])
    lists = ("before_script", "script", "after_script", "ignored", "warnings", "services")
    job |= {key: tuple(job[key]) for key in lists}
    job |= {key: frozenset(job[key]) for key in ("allowed_codes", "retry_when")}
    job["variables"] = tuple((name, text) for name, text in job["variables"])
    job["needs"] = None if job["needs"] is None else tuple(Need(*need) for need in job["needs"])
    job["dependencies"] = None if job["dependencies"] is None else tuple(job["dependencies"])
    if job["artifacts"]:
        job["artifacts"] = Artifacts(**_with_tuples(job["artifacts"]))
    return LocalJob(**{**data, "job": CiJob(**job), "packed": Checkout(**_with_tuples(data["packed"]))})


def _with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def run(local: LocalJob, settings: Settings, log: LocalLog) -> int:
    """Boot the job's machine, run its stages in it, remove it; return the status that decides the job's result."""
    variables = dict(local.job.variables)
    for note in (*local.packed.notes, *local.job.warnings):
        log.warn(note)
    if local.job.ignored:
        log.warn(f"ignored here: {', '.join(local.job.ignored)}")
    job = Job(
        local.job_id,
        server=LOCAL,
        timeout_seconds=local.job.timeout_seconds,
        limits_asked=limits_asked(variables.items()),
        services=list(local.job.services) if local.with_services else None,
        variables=[{"key": key, "value": value, "public": True, "raw": True} for key, value in variables.items()],
    )
    try:
        log.section(headings.PREPARE)
        began = time.monotonic()
        with accounting.StageEntry("prepare", settings=settings) as entry:
            entry.about(job)
            image = job_image.find(local.job.image or settings.default_image, settings, as_named=local.forced)
            own = job_image.settings_of(image, settings)
            wanted = services.find(job, settings, local.file, by_hand=True)
            options = _binds(local, idmap=own.user_namespace)
            owner = callers.this_process()
            record = machine.boot(job, image, settings, own, owner=owner, entry=entry, binds=options, wanted=wanted)
        log.say(machine.report(record, time.monotonic() - began))
        try:
            return _Stages(record, settings, log, local).run()
        finally:
            job_log.tell_end(record)
    finally:
        log.section(headings.CLEANUP)
        with signals.held(), accounting.StageEntry("cleanup", settings=settings) as entry:
            entry.about(job)
            removal.remove(job.id, job.server, settings, keep=True, entry=entry)


def _binds(local: LocalJob, *, idmap: bool) -> list[str]:
    """Return the options of systemd-nspawn for the folders that the job shares with us."""
    found = [f"--bind-ro={local.bundle}:{_BUNDLE}"]
    if local.given:
        found.append(f"--bind-ro={local.given}:{_GIVEN}")
    if local.results and local.job.artifacts:
        found.append(f"--bind={artifact_files.make_shared(local.results)}:{_OUT}{':idmap' if idmap else ''}")
    return found


class _Stages:
    """The stages of one job in its machine."""

    def __init__(self, record: Record, settings: Settings, log: LocalLog, local: LocalJob) -> None:
        self.record = record
        self.settings = settings
        self.log = log
        self.local = local
        self.variables = dict(local.job.variables)

    def run(self) -> int:
        """Run sources, artifacts of others, script, after_script, own artifacts; return the status that counts."""
        local, job = self.local, self.local.job
        status = self.stage(headings.GET_SOURCES, "get_sources", self.sources())
        archives = artifact_files.archives(local.given) if local.given else []
        if status == 0 and archives:
            content = artifact_scripts.unpack(_GIVEN, archives, local.project_dir)
            status = self.stage(headings.GET_ARTIFACTS, "download_artifacts", content)
        if status:
            return self.ended(status)
        build = scripts.build_script(job, local.project_dir, colour=self.log.colour)
        status = self.stage(headings.BUILD_SCRIPT, "build_script", build)
        if job.after_script:
            word = "failed" if status else "success"
            content = scripts.after_script(job, local.project_dir, word, colour=self.log.colour)
            after = self.stage(headings.AFTER_SCRIPT, "after_script", content)
            if after and self.variables.get("AFTER_SCRIPT_IGNORE_ERRORS", "").lower() in {"false", "0", "f"}:
                status = status or after
            elif after:
                self.log.say(headings.after_script_failed(after, colour=self.log.colour))
        kept = artifact_choice.due(job.artifacts, failed=status != 0) if job.artifacts else None
        if local.results and kept:
            kept_status = self.keep(kept)
            status = status or kept_status
        return self.ended(status)

    def sources(self) -> bytes:
        packed, depth = self.local.packed, self.variables.get("GIT_DEPTH", "")
        return scripts.get_sources(
            _BUNDLE,
            self.local.project_dir,
            sha=packed.sha,
            ref=packed.ref,
            tag=packed.tag,
            shallow=packed.shallow,
            strategy=self.variables.get("GIT_STRATEGY", "clone"),
            remote=packed.remote,
            depth=int(depth) if depth.isascii() and depth.isdigit() and len(depth) < 7 else 0,
        )

    def keep(self, kept: Artifacts) -> int:
        """Keep the job's artifacts in its results; return the status of the scripts that collect them."""
        local = self.local
        shared = artifact_files.shared(local.results)
        content = artifact_scripts.listing(_OUT, local.project_dir, untracked=kept.untracked)
        status = self.stage(headings.KEEP_ARTIFACTS, "upload_artifacts", content)
        if status:
            return status
        chosen = artifact_files.choose(kept, shared, self.variables)
        for note in chosen.notes:
            self.log.warn(note)
        wanted = [
            (name, files)
            for name, files in ((artifact_files.FILES, chosen.paths), (artifact_files.REPORTS, chosen.reports))
            if files
        ]
        if wanted or chosen.dotenv:
            content = artifact_scripts.pack(_OUT, local.project_dir, wanted, chosen.dotenv)
            status = self.stage("", "upload_artifacts", content)
        if status == 0:
            for name, size in artifact_files.take(local.results):
                self.log.say(f"{name}: {len(chosen.paths)} files and folders, {human_size(size)}")
        return status

    def ended(self, status: int) -> int:
        colour, why = self.log.colour, f"exit code {status}"
        self.log.say(headings.failed(why, colour=colour) if status else headings.succeeded(colour=colour))
        return status

    def stage(self, title: str, name: str, content: bytes) -> int:
        """Run the script ``content`` in the machine as the stage ``name``; return its status."""
        record, settings = self.record, self.settings
        if title:
            self.log.section(title)

        with accounting.StageEntry("run", name, settings=settings) as entry:
            entry.in_machine(record)
            entry.status = job_log.run(
                record,
                name,
                self.in_machine(name, content),
                decides=name != "after_script",
                may_be_last=lambda **_: False,  # run tells the end
                journals=job_log.wants_journals(self.variables.get("CI_DEBUG_SERVICES")),
            )
        return entry.status

    def in_machine(self, name: str, content: bytes) -> Callable[[], int]:
        record, grace = self.record, self.settings.stop_grace_seconds

        def script_in_machine() -> int:
            result = script.run(record, content, name, shell=record.shell, grace_seconds=grace)
            job_script.tell(result, record)
            return result.status

        return script_in_machine
