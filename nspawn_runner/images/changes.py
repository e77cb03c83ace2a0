"""Change an image: change a hidden copy, which replaces the image on success."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from ..errors import HostError
from ..host import locks, trees
from . import generations, store
from .generations import Draft


@contextmanager
def copy_to_change(state_folder: str, name: str) -> Iterator[tuple[store.Image, Draft]]:
    """Yield the image ``name`` and a copy of its current generation; remove the copy on exit unless published.

    Locks out other changes of the image; machines, running or new, keep using the current generation.
    """
    find_ours(state_folder, name)
    with generations.changing(state_folder, name):
        image = find_ours(state_folder, name)
        with generations.draft(state_folder, name) as draft:
            trees.copy(image.root, draft.root)
            yield image, draft


def publish_change(
    state_folder: str, image: store.Image, draft: Draft, used_roots: Callable[[], list[str]], **known: Any
) -> store.Image:
    """Publish the changed copy ``draft`` as the current generation; remove old ones that nobody uses.

    ``known`` are facts about the change, which override those of ``image``.
    """
    made = generations.complete(state_folder, draft, {**store.facts(image), "base": image.generation, **known})
    generations.publish(state_folder, made)
    generations.drop_old(state_folder, image.name, used_roots())
    return made


def find_ours(state_folder: str, name: str) -> store.Image:
    """Return the image ``name``; raises HostError when there is none, or it is an alias or a link made by hand."""
    meant = store.alias_of(state_folder, name)
    if meant:
        raise HostError(f"{name} is an alias of the image {meant}", advice=f"change {meant} itself")
    image = store.find(state_folder, name)
    if image is None:
        raise _no_image(state_folder, name)
    path = os.path.join(state_folder, name)
    if os.path.islink(path) and not image.generation:
        raise HostError(
            f"the image {name} is a link to {os.readlink(path)}, made by hand",
            advice="change its target, or remove the link and create an image of that name",
        )
    return image


def find_generation(state_folder: str, name: str, stamp: str = "") -> store.Image:
    """Return the generation ``stamp`` of the image ``name``, or its current one; raises HostError if there is none."""
    image = store.find(state_folder, name)
    if image is None:
        raise _no_image(state_folder, name)
    if not stamp or stamp == image.generation:
        return image
    there = store.generations(state_folder, name)
    found = next((each for each in there if each.generation == stamp), None)
    if found is None:
        raise no_generation(name, stamp, there)
    return found


@contextmanager
def reading(state_folder: str, name: str, stamp: str = "") -> Iterator[store.Image]:
    """Yield what ``find_generation`` finds and keep it unchanged until exit; the image may get new generations.

    Not so a plain folder: it is locked against changes, unless its disk is read-only.
    """
    while True:
        image = find_generation(state_folder, name, stamp)
        if not image.generation:
            read_only = os.statvfs(state_folder).f_flag & os.ST_RDONLY
            with nullcontext() if read_only else generations.changing(state_folder, name):
                yield find_generation(state_folder, name, stamp)
            return
        with locks.kept(image.root) as is_there:
            if is_there:
                yield image
                return


def no_generation(name: str, stamp: str, there: Sequence[store.Image]) -> HostError:
    """Return the error for a generation that is not in ``there``; without a stamp, for one before the current."""
    return HostError(
        f"the image {name} has no generation {stamp}" if stamp else f"the image {name} has no generation before this",
        facts=f"generations: {', '.join(each.generation for each in there) or 'none, it was made by hand'}",
        advice="nspawn-runner chroot-list --generations",
    )


def refuse_existing(state_folder: str, name: str, *, advice: str = "") -> None:
    """Raise HostError when something already has the name ``name``; ``advice`` is an alternative to starting over."""
    if os.path.lexists(os.path.join(state_folder, name)):
        raise HostError(
            f"there is already an image {name}",
            advice=f"{advice or f'change it with nspawn-runner chroot-login {name}'}, "
            f"or create it again after nspawn-runner chroot-remove {name}",
        )


def _no_image(state_folder: str, name: str) -> HostError:
    there = ", ".join(store.names(state_folder)) or "none"
    return HostError(f"there is no image {name}", facts=f"there are: {there}")
