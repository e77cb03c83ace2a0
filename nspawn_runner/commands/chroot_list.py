"""chroot-list: list the images."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import output
from ..errors import HostError
from ..host import locks, trees
from ..images import store
from ..output import human_age, human_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ..settings.tables import Settings

HELP = "list the images"
DESCRIPTION = """Lists the images with their sizes and ages; half-made ones too.

    nspawn-runner chroot-list
    nspawn-runner chroot-list --generations --json"""

_STATES = {
    "current": "complete",
    "plain": "complete, made by hand",
    "old": "an older generation",
    "newer": "a newer generation, left by chroot-rollback",
    "unpublished": "complete, but not published",
    "building": "being made",
    "half-made": "half-made: chroot-create or chroot-remove removes it",
    "broken": "broken: its tree is missing",
}


class ImageRow(NamedTuple):
    """A line of the list; sizes in bytes, times in epoch seconds, None if unknown."""

    name: str
    suite: str | None
    size_bytes: int | None
    created: int | None
    generation: str | None
    complete: bool
    state: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --json, --generations and --measure."""
    parser.add_argument("--json", action="store_true", help="print a JSON array (bytes, epoch seconds)")
    parser.add_argument("--generations", action="store_true", help="list older generations too")
    parser.add_argument("--measure", action="store_true", help="measure images that were made by hand")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Print the images as a table or as JSON."""
    rows = list(listing(settings.state_folder, older=args.generations, measure=args.measure))
    if args.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
    elif rows:
        print("\n".join(table(rows, time.time())))
    else:
        print(f"no images in {settings.state_folder}: make one with nspawn-runner chroot-create bookworm")
    return 0


def listing(state_folder: str, *, older: bool, measure: bool) -> Iterator[ImageRow]:
    """Yield a row per image, half-made or not; with ``older`` one per generation; ``measure`` walks plain trees."""
    for name in store.known_names(state_folder):
        meant = store.alias_of(state_folder, name)
        if meant:
            is_there = os.path.lexists(os.path.join(state_folder, meant))
            state = f"alias of {meant}" if is_there else f"alias of {meant}, which is not there"
            yield ImageRow(name, None, None, None, None, is_there, state)
            continue
        try:
            current = store.find(state_folder, name)
        except HostError:
            yield ImageRow(name, None, None, None, None, False, "broken")
            current = None
        if current and not current.generation:
            size = trees.size_bytes(os.path.realpath(current.root)) if measure else None
            yield ImageRow(name, None, size, round(os.stat(current.root).st_mtime), None, True, "plain")
        for image in store.generations(state_folder, name):
            is_current = current is not None and image.root == current.root
            if is_current or older or not current:
                yield _row(image, "current" if is_current else _other_state(image, current))
        for draft in store.drafts(state_folder, name):
            in_work = locks.is_held(store.lock_file(state_folder, name))
            yield _row(draft, "building" if in_work else "half-made")


def table(rows: Sequence[ImageRow], now: float) -> list[str]:
    """Return the lines of a table of ``rows``, with ages at the time ``now`` (epoch seconds)."""
    lines = [("NAME", "SUITE", "SIZE", "AGE", "GENERATION", "STATE")]
    for row in rows:
        age = human_age(now - row.created) if row.created is not None else "-"
        size = human_size(row.size_bytes)
        lines.append((row.name, row.suite or "-", size, age, row.generation or "-", _STATES.get(row.state, row.state)))
    return output.table(lines)


def _other_state(image: store.Image, current: store.Image | None) -> str:
    if current is None:
        return "unpublished"
    return "newer" if current.generation and image.generation > current.generation else "old"


def _row(image: store.Image, state: str) -> ImageRow:
    known: dict[str, Any] = store.facts(image)
    return ImageRow(
        name=image.name,
        suite=known.get("suite") or None,
        size_bytes=known.get("size_bytes"),
        created=known.get("created"),
        generation=image.generation,
        complete=known.get("complete") is True,
        state=state,
    )
