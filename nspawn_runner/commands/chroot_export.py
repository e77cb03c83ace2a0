"""chroot-export: write an image to a tar archive."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..images import changes, store
from ..images.archive import exports
from ..output import human_size

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "write an image to a tar archive"
DESCRIPTION = """Writes the tree of the image NAME to FILE. Its ending sets the compression: .tar, .tar.gz, .tar.xz or
.tar.zst; - is standard output, uncompressed. The same generation gives the same bytes every time. Only root can read
FILE: an image may hold secrets.

    nspawn-runner chroot-export bookworm bookworm.tar.zst
    nspawn-runner chroot-export bookworm - | ssh other 'cat > bookworm.tar'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add NAME, FILE, --generation and --force."""
    parser.add_argument("name", metavar="NAME", help="name of the image")
    parser.add_argument("file", metavar="FILE", help="the archive, or - for standard output")
    parser.add_argument("--generation", metavar="GENERATION", default="", help="write this one, not the current one")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Write the archive and print one line about it."""
    state, name = settings.state_folder, store.own_name(settings.state_folder, args.name)
    compression = exports.compression(args.file)
    if args.file == "-" and sys.stdout.isatty():
        raise UsageError("an archive is not written to a terminal", advice="name a file, or use a pipe")
    if args.file != "-" and os.path.lexists(args.file) and not args.force:
        raise UsageError(f"{args.file} already exists", advice="name another file, or replace it with --force")
    with changes.reading(state, name, args.generation) as image:
        if args.file == "-":
            exports.write(image.root, 1, compression)
        else:
            size = exports.write_file(image.root, args.file, compression)
            print(f"image {name}, generation {image.generation or 'by hand'}, {human_size(size)} in {args.file}")
    return 0
