"""chroot-rollback: make an earlier generation of an image the current one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..images import changes, generations, store

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "go back to an earlier generation of an image"
DESCRIPTION = """Makes an earlier generation of the image NAME the current one: the one before, or GENERATION as listed
by chroot-list --generations. Jobs that start from now on get it; running jobs keep what they have. The generation it
replaces stays, and naming it makes it current again, until later changes push it out.

    nspawn-runner chroot-rollback bookworm
    nspawn-runner chroot-rollback bookworm 20250601T101500Z"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add NAME and GENERATION."""
    parser.add_argument("name", metavar="NAME", help="name of the image")
    parser.add_argument("generation", metavar="GENERATION", nargs="?", default="", help="default: the one before")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Publish the earlier generation and say what is current now."""
    state, name = settings.state_folder, args.name
    changes.find_ours(state, name)
    with generations.changing(state, name):
        current = changes.find_ours(state, name)
        wanted = _wanted(state, current, args.generation)
        if wanted.root == current.root:
            print(f"image {name}: generation {wanted.generation} is the current one already")
            return 0
        generations.publish(state, wanted)
    print(f"image {name}: generation {wanted.generation} is the current one now (was {current.generation})")
    return 0


def _wanted(state_folder: str, current: store.Image, stamp: str) -> store.Image:
    if stamp:
        return changes.find_generation(state_folder, current.name, stamp)
    there = store.generations(state_folder, current.name)
    base = store.facts(current).get("base")
    before = [each for each in there if each.generation < current.generation]
    if not before:
        raise changes.no_generation(current.name, "", there)
    return next((each for each in before if each.generation == base), before[0])
