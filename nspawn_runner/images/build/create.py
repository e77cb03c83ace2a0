"""Create a tree from its base: packages, a command, an archive, or a copy of its parent."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from ...errors import HostError
from ...host import process, trees
from ...settings.package_proxy import PackageProxy
from .. import store
from ..archive import imports
from ..progress import Progress
from ..spec import Spec
from . import bootstrap, identity, inputs, suite_source


def make(
    spec: Spec, root: str, state_folder: str, *, log: str, progress: Progress, proxy: PackageProxy | None
) -> dict[str, Any]:
    """Create the tree ``root``, which must not exist yet, from the base of ``spec``; return facts about it.

    Packages come through the ``proxy``, if there is one. Appends the output of programs to the file ``log``. Raises
    HostError.
    """
    facts: dict[str, Any] = {"built": round(time.time()), "inputs": inputs.noted(spec.inputs, {})}
    if spec.extends:
        parent = _parent(spec, state_folder)
        progress.show("copying its parent")
        trees.copy(parent.root, root)
        identity.rename(root, spec.image)
        known = {"parent": _shown(parent), "builder": f"extends {spec.extends}", "suite": imports.suite(root)}
        return {**facts, **known}
    if spec.tarball:
        limits = imports.default_limits(state_folder)
        _, known = imports.fill(root, imports.Source(spec.tarball, "", limits), progress)
        return {**facts, **known, "source": os.path.basename(spec.tarball), "suite": imports.suite(root)}
    trees.make(root)
    if spec.command:
        bootstrap.run_command(spec.command, root, log=log, progress=progress)
        if not os.listdir(root):
            raise HostError(f"{process.quoted(spec.command)} created nothing", advice="it must fill the folder {root}")
        builder = spec.command[0]
    else:
        builder = bootstrap.build(spec.source, root, log=log, progress=progress, builder=spec.builder, proxy=proxy)
    identity.clean_up(root, spec.image)
    return {**facts, **suite_source.facts(spec.source), "builder": builder}


def why_anew(spec: Spec, image: store.Image, state_folder: str) -> str:
    """Return why the tree of ``image`` must be created again; empty if a changed copy will do."""
    return next(_reasons(spec, store.facts(image), state_folder), "")


def _reasons(spec: Spec, known: dict[str, Any], state_folder: str) -> Iterator[str]:
    if spec.recreate:
        yield "its playbook asks for a new tree each time"
    if known.get("base_digest", spec.base_digest) != spec.base_digest:
        yield "its playbook names another base"
    if "base_digest" not in known and spec.names_suite and known.get("suite") not in {None, "", spec.source.suite}:
        yield f"its suite was {known['suite']}"
    if spec.extends:
        parent = _parent(spec, state_folder)
        if known.get("parent", "") not in {_shown(parent), parent.generation}:
            yield f"its parent {spec.extends} has another generation"
    for path in inputs.changed(spec.inputs, known.get("inputs", {})):
        yield f"{path} has other content"
    age_seconds = time.time() - known.get("built", known.get("created", time.time()))
    if spec.max_age_seconds and age_seconds > spec.max_age_seconds:
        yield f"it was made {age_seconds / 86400:.0f} days ago"


def _shown(parent: store.Image) -> str:
    """Return what identifies the parent's tree: its generation, or a plain folder's time of change."""
    if parent.generation:
        return parent.generation
    there = os.stat(parent.root)
    return f"{there.st_ino}-{there.st_ctime_ns}"


def _parent(spec: Spec, state_folder: str) -> store.Image:
    parent = store.find(state_folder, spec.extends)
    if parent is None:
        raise HostError(f"its parent {spec.extends} is not there", advice="fix that image first")
    return parent
