"""chroot-import: make an image from an archive, a folder or a container image."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import HostError, UsageError, printable
from ..images import changes, generations, lookup, store
from ..images.archive import container_config, imports
from ..images.progress import Progress
from ..maintenance import image_users
from ..output import human_size, say
from ..settings.quantities import size_bytes

if TYPE_CHECKING:
    import argparse

    from ..images.archive.unpack import Report
    from ..settings.tables import Settings

HELP = "make an image from an archive, a folder or a container image"
DESCRIPTION = """Makes the image NAME from SOURCE: a tar archive (also compressed by gzip, xz, zstd or bzip2), a folder,
or a container image: an OCI image layout (folder or archive) or the output of "docker save". No daemon is needed.
Unpacking an archive cannot reach anything outside the image. If the whole tree is in a single folder, that folder
becomes the tree. The source's host name and machine id (/etc/hostname, machine-id) are left out. Scripts of jobs get
the environment that a container image sets; its other settings for running it are reported and kept.

    nspawn-runner chroot-import web web.tar.zst
    nspawn-runner chroot-import tools saved.tar --reference registry.example.com/tools:2"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add NAME, SOURCE, --reference, --replace and the limits."""
    parser.add_argument("name", metavar="NAME", help="name of the image")
    parser.add_argument("source", metavar="SOURCE", help="file or folder")
    parser.add_argument("--reference", metavar="REFERENCE", default="", help="name, tag or digest, of several images")
    parser.add_argument("--replace", action="store_true", help="add a new generation if NAME exists")
    parser.add_argument("--max-size", metavar="SIZE", default="", help="limit once unpacked (default: free disk)")
    most = imports.MOST_FILES
    parser.add_argument("--max-files", metavar="N", type=int, default=most, help=f"limit of files (default: {most})")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Make the image and print one line about it; warnings go to stderr."""
    name, state = lookup.new_image_name(args.name), settings.state_folder
    limits = imports.default_limits(state, files_count=args.max_files)
    if args.max_size:
        size = size_bytes(args.max_size)
        if size is None:
            raise UsageError(f"'{printable(args.max_size, 40)}' is not a size", advice="such as 512M or 4G")
        limits = limits._replace(size_bytes=size)
    source = imports.Source(args.source, args.reference, limits)
    if os.path.isdir(args.source) and not os.listdir(args.source):
        raise HostError(f"the folder {args.source} is empty", advice="name a tree, an archive or a container image")
    _check_name(state, name, args.replace)
    progress = Progress(f"image {name}")
    with generations.changing(state, name):
        is_new = _check_name(state, name, args.replace)
        if is_new:
            generations.remove_unpublished(state, name)
        with generations.draft(state, name) as draft:
            report, known = imports.fill(draft.root, source, progress)
            progress.show("writing to disk")
            known.update(source=os.path.basename(os.path.normpath(args.source)), suite=imports.suite(draft.root))
            image = generations.complete(state, draft, known)
            generations.publish(state, image)
            if not is_new:
                generations.drop_old(state, name, image_users.used_roots())
    progress.end()
    for warning in warnings(report, image):
        say(warning)
    took = human_size(store.facts(image).get("size_bytes"))
    print(f"image {name}, generation {image.generation}, {took}, imported in {progress.seconds():.0f} s")
    return 0


def warnings(report: Report, image: store.Image) -> list[str]:
    """Return warnings about an imported image: what was left out, what will not work."""
    found = []
    if report.devices_left_out:
        found.append(f"device nodes left out: {report.devices_left_out} (machines get theirs from systemd-nspawn)")
    if report.attributes_left_out:
        what = "flags, and kinds that only mean something on their own host"
        found.append(f"extended attributes left out: {report.attributes_left_out} ({what})")
    if report.top:
        beside = f"; left out beside it: {report.beside_top}" if report.beside_top else ""
        found.append(f"the archive's folder {printable(report.top, 60)} is the tree{beside}")
    if report.high_ids:
        found.append(f"files of users or groups above 65535: {report.high_ids}; machines see them as nobody's")
    if unused := container_config.told(store.facts(image)):
        found.append(f"jobs get the environment of the image but ignore its {unused}")
    if names := container_config.left_out(store.facts(image)):
        said = printable(", ".join(names), 200)
        found.append(f"variables of the image that jobs do not get, because of name or size: {said}")
    if not imports.can_boot(image.root):
        found.append(
            f"the image {image.name} holds no systemd, so no machine can boot from it\n"
            f"  install it, on Debian: nspawn-runner chroot-login {image.name} -- "
            "sh -c 'apt-get update && apt-get install --yes systemd systemd-sysv dbus iproute2'"
        )
    return found


def _check_name(state_folder: str, name: str, replace: bool) -> bool:
    """Return whether the image ``name`` is new; raises HostError if it exists and may not be replaced."""
    if not os.path.lexists(os.path.join(state_folder, name)):
        return True
    if not replace:
        changes.refuse_existing(state_folder, name, advice="make a new generation of it with --replace")
    changes.find_ours(state_folder, name)
    return False
