"""Image aliases: each is a link beside the image that points to its name."""

from __future__ import annotations

import os

from ..errors import HostError
from ..host import files
from . import store
from .spec import Spec


def check(state_folder: str, spec: Spec) -> None:
    """Raise HostError when something that is not an alias already has the name of one of the aliases of ``spec``."""
    for alias in spec.aliases:
        if os.path.lexists(os.path.join(state_folder, alias)) and not store.alias_of(state_folder, alias):
            raise HostError(
                f"{alias} cannot be an alias of {spec.image}: something else has that name",
                advice=f"take it out of {spec.playbook}, or remove the other: nspawn-runner chroot-remove {alias}",
            )


def publish(state_folder: str, spec: Spec) -> None:
    """Create the aliases that ``spec`` lists and remove the image's earlier ones that it no longer lists."""
    for alias in spec.aliases:
        if store.alias_of(state_folder, alias) != spec.image:
            link = os.path.join(store.generations_folder(state_folder, spec.image), ".link")
            files.remove_file(link)
            os.symlink(spec.image, link)
            os.rename(link, os.path.join(state_folder, alias))
    for alias in {*_made(state_folder, spec.image)} - {*spec.aliases}:
        remove(state_folder, alias, spec.image)


def remove(state_folder: str, alias: str, image: str) -> None:
    """Remove ``alias`` if it is one of ``image``."""
    if store.alias_of(state_folder, alias) == image:
        files.remove_file(os.path.join(state_folder, alias))


def _made(state_folder: str, image: str) -> list[str]:
    """Return the aliases recorded for the generations of ``image``."""
    there = store.generations(state_folder, image)
    return [str(alias) for each in there for alias in store.facts(each).get("aliases", ())]
