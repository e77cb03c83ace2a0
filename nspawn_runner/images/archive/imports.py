"""Make a draft from a folder, a tar archive, or a container image in a folder or an archive."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ...errors import HostError
from ...host import beneath, files, process, signals, trees
from ...settings import paths
from ..build import identity
from ..progress import Progress
from . import archives, container_config, layouts, top_folder
from .archives import UnpackLimits
from .unpack import HARMLESS_DEVICES, Report

MOST_FILES = 10_000_000
# The fraction of the disk's free space that an archive must leave.
_RESERVE = 0.05
# What systemd-nspawn --boot tries, in its order.
_INITS = ("usr/lib/systemd/systemd", "lib/systemd/systemd", "sbin/init")


class Source(NamedTuple):
    """Where a tree comes from: a file's or folder's path; which of several images; the limits."""

    path: str
    reference: str
    limits: UnpackLimits


def default_limits(state_folder: str, *, files_count: int = MOST_FILES) -> UnpackLimits:
    """Return the limits of an import: nearly all the free space on the disk of ``state_folder``."""
    paths.keep_others_out(state_folder)
    there = os.statvfs(state_folder)
    return UnpackLimits(int(there.f_bavail * there.f_frsize * (1 - _RESERVE)), files_count)


def fill(root: str, source: Source, progress: Progress) -> tuple[Report, dict[str, Any]]:
    """Create the tree ``root``, which must not exist yet, from ``source``; return a report and facts about it.

    Removes the hostname and machine-id of its origin. Raises HostError; ``root`` may then be partly filled.
    """
    filled = _fill(root, source, progress)
    identity.forget(root)
    return filled


def _fill(root: str, source: Source, progress: Progress) -> tuple[Report, dict[str, Any]]:
    """Fill ``root``, as for ``fill``.

    Meanwhile a folder beside ``root`` holds the container image.
    """
    if os.path.isdir(source.path):
        if layouts.kind(source.path):
            return _from_layers(root, source.path, source, progress)
        _refuse_busy(source.path, root)
        progress.show("copying")
        trees.copy(os.path.realpath(source.path), root)
        return Report(devices_left_out=_remove_devices(root)), {"builder": "import of a folder"}
    fd = archives.open_archive(source.path)
    try:
        trees.make(root)
        progress.show("unpacking")
        report = archives.unpack(fd, root, what=source.path, limits=source.limits)
    finally:
        os.close(fd)
    if not layouts.kind(root):
        if not os.listdir(root):
            raise HostError(f"there is nothing in {source.path}")
        report = top_folder.move_up(root, report)
        return report, {"builder": "import of an archive", "sha256": report.sha256}
    left = source.limits._replace(size_bytes=source.limits.size_bytes - report.size_bytes)
    with _moved(root) as layout:
        return _from_layers(root, layout, source._replace(limits=left), progress)


@contextmanager
def _moved(root: str) -> Iterator[str]:
    """Move ``root`` out of the way until exit, and yield its new path."""
    layout = f"{root}.layout"
    try:
        os.rename(root, layout)
        yield layout
    finally:
        with signals.held():
            trees.remove(layout)


def _from_layers(root: str, layout: str, source: Source, progress: Progress) -> tuple[Report, dict[str, Any]]:
    try:
        found = layouts.find_layers(layout, reference=source.reference, machine=os.uname().machine)
    except HostError as error:
        raise HostError(f"cannot import {source.path}: {error.what}", facts=error.facts, advice=error.advice) from None
    trees.make(root)
    total = Report()
    for number, layer in enumerate(found.layers, 1):
        progress.show(f"unpacking layer {number} of {len(found.layers)}")
        left = UnpackLimits(source.limits.size_bytes - total.size_bytes, source.limits.files - total.entries)
        total = total.plus(_apply(root, layout, layer, left))
    known = {"reference": found.title, "layers": [layer.diff_id for layer in found.layers]}
    said = container_config.kept(found.configuration)
    return total, {"builder": "import of a container image", **known, **({container_config.FACT: said} if said else {})}


def _apply(root: str, layout: str, layer: layouts.Layer, limits: UnpackLimits) -> Report:
    fd = layouts.open_blob(layout, layer.path)
    try:
        if layer.digest:
            layouts.check_digest(fd, layer.digest, layer.path)
        report = archives.unpack(fd, root, what=f"the layer {layer.path}", limits=limits, layer=True)
    finally:
        os.close(fd)
    if layer.diff_id.startswith("sha256:") and report.sha256 != layer.diff_id.partition(":")[2]:
        raise HostError(
            f"the digest of the layer {layer.path} is wrong",
            facts=f"expected {layer.diff_id}, found {report.sha256}",
            advice="the archive is damaged or was changed: get it again",
        )
    return report


def _remove_devices(root: str) -> int:
    """Remove the device nodes that would not be unpacked from an archive, and return their number."""
    nodes = process.run(["find", root, "(", "-type", "b", "-o", "-type", "c", ")", "-print0"]).stdout.split(b"\0")
    removed = 0
    for path in filter(None, nodes):
        status = os.lstat(path)
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        if stat.S_ISBLK(status.st_mode) or device not in HARMLESS_DEVICES:
            os.unlink(path)
            removed += 1
    return removed


def _refuse_busy(folder: str, root: str) -> None:
    """Refuse a folder that would be copied into itself, or that has mounts in it, such as /proc."""
    real = os.path.realpath(folder)
    if os.path.commonpath([real, os.path.realpath(root)]) == real:
        raise HostError(f"{folder} holds the images themselves", advice="copy what you want to another folder first")
    mounted = files.mounted_below(real)
    if mounted:
        raise HostError(f"something is mounted in {folder}", facts=", ".join(mounted[:5]), advice="unmount it first")


def suite(root: str) -> str:
    """Return the suite's name, or the distribution's name and version, according to the tree ``root``; or nothing."""
    for path in ("etc/os-release", "usr/lib/os-release"):
        try:
            fd = beneath.open_file(root, path)
        except OSError:
            continue
        with open(fd, "rb") as file:
            lines = file.read(65536).decode(errors="replace").splitlines()
        known = {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in lines)}
        name = known.get("VERSION_CODENAME") or f"{known.get('ID', '')} {known.get('VERSION_ID', '')}".strip()
        return "".join(char for char in name if char.isprintable())[:40]
    return ""


def can_boot(root: str) -> bool:
    """Return whether the tree ``root`` has an init that systemd-nspawn --boot starts (systemd-nspawn(1))."""
    return any(beneath.exists(root, path) for path in _INITS)
