"""toml: print a section for gitlab-runner's config.toml."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..images import store
from ..names import is_image_name

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "print a section for gitlab-runner's config.toml"
DESCRIPTION = """Prints a [[runners]] section that makes gitlab-runner run its jobs here, or serves as a template.

    nspawn-runner toml bookworm --name shed --url https://gitlab.example >> /etc/gitlab-runner/config.toml
    nspawn-runner toml bookworm > template.toml; gitlab-runner register --template-config template.toml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add IMAGE and the options of the runner."""
    parser.add_argument("image", metavar="IMAGE", nargs="?", default="", help="image of jobs that ask for none")
    parser.add_argument("--name", default="", help="name of the runner")
    parser.add_argument("--url", default="", help="address of the GitLab server")
    parser.add_argument("--token", default="", help="the runner's token (default: a comment in its place)")
    parser.add_argument(
        "--concurrent",
        type=int,
        default=0,
        metavar="N",
        help="jobs at a time of all runners; its line must be at the top of config.toml",
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="jobs at a time of this runner")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Print the section."""
    from ..gitlab import config_toml

    if args.image and not is_image_name(args.image):
        raise UsageError(f"{args.image!r} cannot be an image's name", advice="see: nspawn-runner chroot-list")
    state = settings.state_folder  # only root may read it
    if args.image and os.access(state, os.R_OK) and store.names(state) and not store.find(state, args.image):
        raise UsageError(f"there is no image {args.image}", advice="see: nspawn-runner chroot-list")
    if args.concurrent < 0 or args.limit < 0:
        raise UsageError("--concurrent and --limit must be at least 1")
    runner = config_toml.Runner(
        tool=tool_path(sys.argv[0]),
        state_folder=settings.state_folder,
        name=args.name,
        url=args.url,
        token=args.token,
        default_image=args.image,
        concurrent=args.concurrent,
        limit=args.limit,
        config_file=os.path.abspath(args.config) if args.config else "",
    )
    print(config_toml.section(runner), end="")
    return 0


def tool_path(called_as: str) -> str:
    """Return the absolute path of the tool called as ``called_as``, looked up in PATH if it has no slash."""
    found = called_as if "/" in called_as else shutil.which(called_as) or called_as
    return os.path.abspath(found)
