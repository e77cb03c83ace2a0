"""chroot-clone: copy an image to a new one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..host import trees
from ..images import changes, generations, lookup, store
from ..images.build import identity
from ..output import human_size

if TYPE_CHECKING:
    import argparse

    from ..settings.tables import Settings

HELP = "copy an image to a new one"
DESCRIPTION = """Makes the image NEW, a copy of the image NAME as it is now. On btrfs, and where the file system can
share blocks, this takes no time and no space.

    nspawn-runner chroot-clone bookworm web"""

# Facts that come from the playbook of the copied image; the new one may have its own.
_OF_PLAYBOOK = {"playbook", "digest", "base_digest", "aliases", "parent", "inputs", "maintained"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add NAME, NEW and --generation."""
    parser.add_argument("name", metavar="NAME", help="name of the image to copy")
    parser.add_argument("new", metavar="NEW", help="name of the new image")
    parser.add_argument("--generation", metavar="GENERATION", default="", help="copy this one, not the current one")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Make the copy and print one line about it."""
    state, new = settings.state_folder, lookup.new_image_name(args.new)
    name = store.own_name(state, args.name)
    changes.refuse_existing(state, new)
    with changes.reading(state, name, args.generation) as source, generations.changing(state, new):
        changes.refuse_existing(state, new)
        generations.remove_unpublished(state, new)
        with generations.draft(state, new) as draft:
            trees.copy(os.path.realpath(source.root), draft.root)
            identity.rename(draft.root, new)
            known = {key: value for key, value in store.facts(source).items() if key not in _OF_PLAYBOOK}
            known.update(cloned_from=name, base=source.generation)
            image = generations.complete(state, draft, known)
            generations.publish(state, image)
    print(f"image {new}, generation {image.generation}, {human_size(store.facts(image).get('size_bytes'))}")
    return 0
