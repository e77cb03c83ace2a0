"""Aliases of images: a link beside the image that leads to its name."""

from __future__ import annotations

import os

from ..errors import HostError
from ..host import files
from . import store
from .spec import Spec


def check(state_folder: str, spec: Spec) -> None:
    """Raise HostError where an alias that ``spec`` wants is something else than an alias already."""
    for alias in spec.aliases:
        if os.path.lexists(os.path.join(state_folder, alias)) and not store.alias_of(state_folder, alias):
            raise HostError(
                f"{alias} cannot be an alias of {spec.image}: there is something else of that name",
                advice=f"take it out of {spec.playbook}, or remove what is there: nspawn-runner chroot-remove {alias}",
            )


def publish(state_folder: str, spec: Spec) -> None:
    """Make the aliases that ``spec`` wants, and remove those that an earlier one of the image made."""
    for alias in spec.aliases:
        if store.alias_of(state_folder, alias) != spec.image:
            link = os.path.join(store.generations_folder(state_folder, spec.image), ".link")
            files.remove_file(link)
            os.symlink(spec.image, link)
            os.rename(link, os.path.join(state_folder, alias))
    for alias in {*_made(state_folder, spec.image)} - {*spec.aliases}:
        remove(state_folder, alias, spec.image)


def remove(state_folder: str, alias: str, image: str) -> None:
    """Remove ``alias`` where it is one of ``image``."""
    if store.alias_of(state_folder, alias) == image:
        files.remove_file(os.path.join(state_folder, alias))


def _made(state_folder: str, image: str) -> list[str]:
    """Return the aliases that generations of ``image`` were given."""
    there = store.generations(state_folder, image)
    return [str(alias) for each in there for alias in store.facts(each).get("aliases", ())]
