"""chroot-remove: remove an image with all its generations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import HostError
from ..images import aliases, generations, store
from ..maintenance import image_users

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "remove an image"
DESCRIPTION = """Removes the image NAME with its older and half-made generations and aliases, unless a machine uses it.
Removing an alias leaves its image alone.

    nspawn-runner chroot-remove bookworm"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add NAME and --force."""
    parser.add_argument("name", metavar="NAME", help="name of the image")
    parser.add_argument("--force", action="store_true", help="remove it even if machines use it, and break them")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Remove the image and say so."""
    state, name = settings.state_folder, args.name
    if name not in store.known_names(state):
        there = ", ".join(store.names(state)) or "none"
        raise HostError(f"there is no image {name}", facts=f"there are: {there}")
    if image := store.alias_of(state, name):
        aliases.remove(state, name, image)
        print(f"removed {name}, an alias of {image}")
        return 0
    with generations.changing(state, name):
        if not args.force:
            _refuse_used(state, name)
        for alias in store.names(state):
            aliases.remove(state, alias, name)
        generations.remove(state, name)
    print(f"removed image {name}")
    return 0


def _refuse_used(state_folder: str, name: str) -> None:
    machines = image_users.machines_of(state_folder, name)
    if machines:
        raise HostError(
            f"the image {name} is in use",
            facts=f"by {', '.join(machines)}",
            advice="wait until these machines are gone (see: nspawn-runner list), or break them with --force",
        )
