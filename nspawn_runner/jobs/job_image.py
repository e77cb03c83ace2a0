"""A job's image: which one it asks for, and the settings for its machines."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import HostError, JobError, printable
from ..images import lookup, store
from ..light_typing import TYPE_CHECKING, Any
from ..settings.machine_settings import for_machines

if TYPE_CHECKING:
    from ..settings.machine_settings import MachineSettings
    from ..settings.tables import Settings


def find(asked: str, settings: Settings, *, as_named: bool = False) -> store.Image:
    """Return the image that ``asked`` means; raises JobError that lists the images, HostError if there are none.

    The settings may map its name to another image; ``as_named``, an image of that very name comes first.
    """
    there = store.names(settings.state_folder)
    if not there:
        raise HostError(
            f"there are no images in {settings.state_folder}", advice="make one: nspawn-runner chroot-create bookworm"
        )
    known = f"there are: {', '.join(there)}"
    if not asked:
        raise JobError(
            "the job asks for no image and there is no default",
            facts=known,
            advice="write image: NAME in .gitlab-ci.yml, or have the admin set default_image",
        )
    if not lookup.is_plausible(asked):
        raise JobError(f"'{printable(asked, 60)}' cannot be the name of an image", facts=known)
    named = asked if as_named and asked in there else None
    name = named or lookup.local_name(asked, mapping=settings.images, there=there)
    image = store.find(settings.state_folder, name) if name else None
    if image is None:
        raise JobError(
            f"there is no image '{printable(asked, 100)}'",
            facts=known,
            advice="have the admin make it: nspawn-runner chroot-create NAME",
        )
    return image


def own_values(image: store.Image) -> Mapping[str, Any]:
    """Return the settings that ``image`` itself has for its machines, unchecked; empty if they are no table."""
    values = store.facts(image).get("run")
    return values if isinstance(values, dict) else {}


def environment(image: store.Image, settings: Settings) -> str:
    """Return shell commands that set the environment of the settings, and of the container image that this was."""
    known = store.facts(image)
    if "container" not in known and not settings.environment:
        return ""
    from ..images.archive import container_config  # few images need it

    return container_config.exports(settings.environment) + container_config.environment(known)


def settings_of(image: store.Image, settings: Settings) -> MachineSettings:
    """Return the settings for machines of ``image``: its own override the host's; raises HostError."""
    known = store.facts(image)
    if image.generation and not known:
        raise HostError(
            f"the description of the image {image.name} cannot be read",
            facts=f"the file {image.root}.json",
            advice=f"take another generation: nspawn-runner chroot-rollback {image.name}",
        )
    return for_machines(settings, known.get("run"), image.name)
