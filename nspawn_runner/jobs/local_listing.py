"""The jobs of a pipeline as a person or a program reads them: when they run, and whether they can run here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import Error, printable
from ..light_typing import TYPE_CHECKING
from ..output import table
from ..pipeline.roster import RosterEntry
from . import job_image

if TYPE_CHECKING:
    from ..settings.tables import Settings


class ListedJob(NamedTuple):
    """A row of the list; ``needs`` is None where the job waits for all earlier stages, ``reason`` why it cannot run."""

    name: str
    stage: str
    when: str
    needs: tuple[str, ...] | None
    image: str
    allow_failure: bool
    can_run: bool
    reason: str


def rows(entries: Iterable[RosterEntry], settings: Settings, *, forced: bool) -> list[ListedJob]:
    """Return a row for each job; ``forced`` tells that the image is the command line's."""
    return [_row(entry, settings, forced=forced) for entry in entries]


def as_json(listed: Iterable[ListedJob]) -> str:
    """Return the list as JSON."""
    return json.dumps([row._asdict() for row in listed], indent=2)


def as_table(listed: Iterable[ListedJob]) -> str:
    """Return the list as a table."""
    shown = [("JOB", "STAGE", "WHEN", "NEEDS", "IMAGE", "")]
    for row in listed:
        texts = [row.name, row.stage, row.when, ", ".join(row.needs or ()), row.image]
        name, stage, when, needs, image = (printable(text or "-", 100) for text in texts)
        shown.append((name, stage, when, needs, image, printable(row.reason, 200)))
    return "\n".join(table(shown))


def _row(entry: RosterEntry, settings: Settings, *, forced: bool) -> ListedJob:
    job = entry.job
    if job is None:
        return ListedJob(entry.name, entry.stage, "", None, "", False, False, entry.problem)
    reason = job.problem
    try:
        if not reason:
            job_image.find(job.image or settings.default_image, settings, as_named=forced)
    except Error as error:
        reason = error.what
    needs = None if job.needs is None else tuple(need.job for need in job.needs)
    allowed = job.allow_failure or bool(job.allowed_codes)
    return ListedJob(entry.name, entry.stage, job.when, needs, job.image or "", allowed, not reason, reason)
