"""chroot-login: change an image by hand, in a copy that replaces it on success."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..images import changes
from ..maintenance import image_users
from ..nspawn import tree_shell
from ..output import note

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "change an image by hand"
DESCRIPTION = """Opens a shell, or runs COMMAND, in a copy of the image NAME. If it ends with exit status 0, the copy
replaces the image: jobs that start later get it, running ones keep what they have. Otherwise nothing changes.

    nspawn-runner chroot-login bookworm
    nspawn-runner chroot-login bookworm -- sh -c 'apt-get update && apt-get install --yes shellcheck'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add NAME, --discard and COMMAND."""
    parser.add_argument("name", metavar="NAME", help="name of the image")
    parser.add_argument("--discard", action="store_true", help="discard the copy in any case")
    parser.add_argument("command", metavar="COMMAND", nargs="*", help="what to run, after -- (default: a shell)")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Let the user change a copy, publish it on success, and return the exit status of the shell or command."""
    with changes.copy_to_change(settings.state_folder, args.name) as (image, draft):
        if not args.command:
            _say("a shell in a copy of", args.name, "exit 0 keeps the changes, exit 1 discards them")
        status = tree_shell.run(draft.root, _host_name(args.name), args.command, user_namespace=settings.user_namespace)
        if args.discard or status:
            reason = "--discard" if args.discard else f"exit status {status}"
            _say("nothing changed in", args.name, reason)
        else:
            made = changes.publish_change(settings.state_folder, image, draft, image_users.used_roots)
            _say("changed", args.name, f"generation {made.generation}")
    return status


def _host_name(image: str) -> str:
    """Return a valid machine name for ``image``: nspawn takes at most 64 letters, digits and -."""
    return f"image-{image}".replace(".", "-").replace("_", "-")[:40].rstrip("-")


def _say(what: str, name: str, more: str) -> None:
    note(f"{what} image {name} ({more})")
