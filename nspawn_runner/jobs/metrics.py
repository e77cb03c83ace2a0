"""Metrics for Prometheus: a text file for node_exporter's textfile collector, if the settings name one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import Error, HostError
from ..host import files, journal, locks
from ..images import store
from ..machines import records
from ..settings.paths import COUNTERS, RUN_FOLDER
from . import counters
from .counters import Counters, EndedStage
from .prometheus import Sample, family, histogram

if TYPE_CHECKING:
    from ..settings.tables import Settings

_LOCK = f"{RUN_FOLDER}/metrics.lock"
_LOCK_SECONDS = 10
# The last problem that was reported; missing while all is well.
_TOLD = f"{RUN_FOLDER}/metrics.problem"
_STATES = ("starting", "running", "stopping", "kept", records.UNREADABLE)


def stage_ended(settings: Settings, ended: EndedStage) -> None:
    """Count a stage and write the file; never fails, but reports a problem in the journal, once."""
    _update(settings, ended)


def refresh(settings: Settings, disk: dict[str, int]) -> None:
    """Write the file again with the present state, and remove what killed processes left; never fails.

    ``disk`` is what each kind takes on disk, as disk_use.by_kind returns it.
    """
    _update(settings, None, disk)


def _update(settings: Settings, ended: EndedStage | None, disk: dict[str, int] | None = None) -> None:
    try:
        files.make_private_folder(RUN_FOLDER)
        with locks.locked(_LOCK, what="the metrics", wait_seconds=_LOCK_SECONDS):
            _count_and_write(settings, ended, disk)
        files.remove_file(_TOLD)
    except Exception as error:
        _tell_once(error.what if isinstance(error, Error) else str(error))


def _count_and_write(settings: Settings, ended: EndedStage | None, disk: dict[str, int] | None) -> None:
    path, now = os.path.join(settings.state_folder, COUNTERS), time.time()
    if ended is None:
        files.remove_drafts(path)
        files.remove_drafts(settings.metrics.file)
    known = counters.load(path)
    if ended is not None:
        counters.count(known, ended, now)
    if disk is not None:
        known = known._replace(disk=disk)
    counters.give_up_waiting(known, now)
    if not os.path.isdir(settings.state_folder):
        files.make_private_folder(settings.state_folder)
    _write(path, json.dumps(known._asdict()), mode=0o600)
    _write(settings.metrics.file, text(settings.state_folder, known), mode=0o644)


def _write(path: str, content: str, *, mode: int) -> None:
    try:
        files.write_atomically(path, content.encode(), mode=mode)
    except OSError as error:
        # The error's own text names a draft, which has another name each time.
        raise HostError(f"cannot write {path}: {error.strerror}") from None


def _tell_once(problem: str) -> None:
    """Warn of ``problem``, unless that was the last warning and nothing has worked since."""
    try:
        known = files.read_head(_TOLD, 4096).decode(errors="replace")
    except OSError:
        known = ""
    if problem == known:
        return
    journal.send(f"the metrics are not up to date: {problem}", priority=journal.WARNING, fields={})
    with suppress(OSError):  # then it is reported again
        files.write_atomically(_TOLD, problem.encode(errors="replace"))


def text(state_folder: str, known: Counters) -> str:
    """Return the content of the file: the counters ``known``, and machines and images as they are now."""
    machines = [(record.state, "service" if record.of_job else "job") for record in records.all_records()]
    states = sorted({*_STATES, *(state for state, _ in machines)})
    images = list(_images(state_folder))
    return "".join(
        (
            family(
                "nspawn_runner_jobs_total",
                "counter",
                "Jobs that ended, by result.",
                [Sample({"result": name.replace(" ", "_")}, number) for name, number in known.jobs.items()],
            ),
            family("nspawn_runner_stage_seconds", "histogram", "How long the stages of jobs took.", _stages(known)),
            family(
                "nspawn_runner_queue_seconds",
                "histogram",
                "How long jobs waited for a runner, as GitLab says.",
                _times(known, counters.QUEUE, {}),
            ),
            family(
                "nspawn_runner_disk_bytes",
                "gauge",
                "Disk space in the state folder when gc counted it last.",
                [Sample({"kind": kind}, size) for kind, size in known.disk.items()],
            ),
            family(
                "nspawn_runner_machines",
                "gauge",
                "Machines, by the state of their records and what they are for.",
                [
                    Sample({"state": state, "of": kind}, machines.count((state, kind)))
                    for state in states
                    for kind in ("job", "service")
                ],
            ),
            family(
                "nspawn_runner_image_created_timestamp_seconds",
                "gauge",
                "When the image tree that jobs get was created.",
                [Sample({"image": name}, created) for name, created, _ in images if created is not None],
            ),
            family(
                "nspawn_runner_image_published_timestamp_seconds",
                "gauge",
                "When jobs began to get that tree; unknown for a folder that was put there by hand.",
                [Sample({"image": name}, published) for name, _, published in images if published is not None],
            ),
        )
    )


def _stages(known: Counters) -> Iterator[Sample]:
    for stage in counters.STAGES:
        yield from _times(known, stage, {"stage": stage})


def _times(known: Counters, name: str, labels: dict[str, str]) -> Iterator[Sample]:
    buckets = dict(zip(counters.BUCKETS, known.buckets[name], strict=True))
    return histogram(labels, buckets, total=known.seconds[name], number=known.stages[name])


def _images(state_folder: str) -> Iterator[tuple[str, int | None, int | None]]:
    """Yield the name, creation time and publishing time of each image that jobs can get, without aliases."""
    for name in store.names(state_folder):
        if store.alias_of(state_folder, name):
            continue
        try:
            image = store.find(state_folder, name)
            if image is not None:
                yield name, store.created(image), store.published(state_folder, image)
        except (HostError, OSError):
            continue  # broken, or just removed
