"""A change of an image: a copy is changed out of sight and takes the image's place when the change was a success."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import HostError
from ..host import trees
from . import generations, store
from .generations import Draft


@contextmanager
def copy_to_change(state_folder: str, name: str) -> Iterator[tuple[store.Image, Draft]]:
    """Yield the image ``name`` and a copy of its current generation; what is not published of it is removed.

    Other changes of the image are kept out meanwhile; running machines and new ones use the current generation.
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
    """Make the changed copy ``draft`` the generation that jobs get from now on; old ones that nobody uses go.

    ``known`` is what is to be written down of the change, over what was known of ``image``.
    """
    made = generations.complete(state_folder, draft, {**store.facts(image), "base": image.generation, **known})
    generations.publish(state_folder, made)
    generations.drop_old(state_folder, image.name, used_roots())
    return made


def find_ours(state_folder: str, name: str) -> store.Image:
    """Return the image ``name``; raises HostError where there is none, or it is a link that we did not make."""
    image = store.find(state_folder, name)
    if image is None:
        there = ", ".join(store.names(state_folder)) or "none"
        raise HostError(f"there is no image {name}", facts=f"there are: {there}")
    path = os.path.join(state_folder, name)
    if os.path.islink(path) and not image.generation:
        raise HostError(
            f"the image {name} is a link to {os.readlink(path)}, made by hand",
            advice="change what it leads to, or remove the link and make an image of that name",
        )
    return image
