"""Maintain images one after the other, and report the results."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..errors import printable
from ..host import files, locks
from ..output import human_size, say, table
from ..settings import package_proxy
from ..settings.paths import RUN_FOLDER
from . import image_users, one_image, trial_machines
from .one_image import CREATED, FAILED, RECREATED, UNCHANGED, UPDATED, ImageResult, Tools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..images.spec import Spec
    from ..settings.tables import Settings

# Held while a maintenance runs; when it is free, machines of maintenance have no owner.
LOCK = f"{RUN_FOLDER}/maintenance.lock"
_WOULD = {CREATED: "would be created", RECREATED: "would be made anew", UPDATED: "would change", UNCHANGED: UNCHANGED}


def maintain(wanted: Sequence[Spec], settings: Settings, *, dry: bool, verbose: bool) -> list[ImageResult]:
    """Maintain the images one after the other and return the results; failures are reported on stderr at once."""
    tools = Tools(
        settings.state_folder,
        settings.user_namespace,
        image_users.used_roots,
        partial(trial_machines.booted, settings=settings),
        partial(trial_machines.try_out, settings=settings),
        verbose,
        package_proxy.find(settings.packages.proxy),
    )
    files.make_private_folder(RUN_FOLDER)
    results = []
    with locks.locked(LOCK, what="chroot-maintenance", wait_seconds=1):
        trial_machines.remove_leftovers()
        for each in wanted:
            result = one_image.check(each, tools) if dry else one_image.maintain(each, tools)
            if result.result == FAILED:
                _tell(result)
            results.append(result)
    return results


def _tell(result: ImageResult) -> None:
    first, *more = map(printable, result.reason)
    say(f"image {result.image}: {first}", *(f"  {line}" for line in more))


def lines(results: Sequence[ImageResult], *, dry: bool) -> list[str]:
    """Return the lines of a table of ``results``; with ``dry`` it says what would be done."""
    rows = [("IMAGE", "RESULT", "CHANGED", "TIME", "SIZE", "LOG")]
    for each in results:
        result = _WOULD.get(each.result, each.result) if dry else each.result
        reason = f" ({each.reason[0]})" if each.reason and each.result != FAILED else ""
        changed = "-" if each.changed is None else str(each.changed)
        size = human_size(each.size_bytes)
        rows.append((each.image, result + reason, changed, f"{each.seconds:.1f} s", size, each.log or "-"))
    return table(rows)
