"""The settings of machines of an image: those of the host, and over them what the image says itself."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import HostError
from ..light_typing import TYPE_CHECKING, Any, NamedTuple
from . import tables
from .tables import Limits, Network, Settings

if TYPE_CHECKING:
    from .profiles import Profile


class MachineSettings(NamedTuple):
    """What an image may say of its machines, from the settings where it does not; ``user`` empty is root."""

    profile: str
    backend: str
    user_namespace: bool
    shell: str
    user: str
    network: Network
    limits: Limits
    keep_builds: bool


def problems_of(values: Any, own: Mapping[str, Profile]) -> list[str]:
    """Say what is wrong with ``values``, what an image says of its machines: a text for each wrong key, or none.

    The keys are those of schema.OF_IMAGES, ``own`` the profiles of the settings.
    """
    if not isinstance(values, dict):
        return ["must be a table"]
    if not values:
        return []
    from .schema import OF_IMAGES

    problems = []
    for key, value in values.items():
        if key not in OF_IMAGES:
            problems.append(f"{key}: no such setting (there are {', '.join(OF_IMAGES)})")
        elif (check := OF_IMAGES[key].check) and (problem := check(value)):
            problems.append(f"{key}: {problem}")
        elif key == "profile":
            from . import profiles

            if text := profiles.unknown([value], own):
                problems.append(f"{key}: {text}")
    return problems


def for_machines(settings: Settings, values: Any = None, image: str = "") -> MachineSettings:
    """Return ``settings`` for the machines of ``image``, which says ``values`` of them; raises HostError.

    The keys of ``values`` are those of schema.OF_IMAGES; None is none of them. What the profile implies has precedence
    over the settings, and the rest of what the image says over that.
    """
    if problems := [] if values is None else problems_of(values, settings.profiles):
        raise HostError(
            f"what the image {image} says of its machines is wrong",
            facts="; ".join(problems),
            advice="fix its playbook and run chroot-maintenance",
        )
    values = values or {}
    settings = _with_profile(settings, values.get("profile", settings.profile))
    for name, value in values.items():
        from .schema import OF_IMAGES

        table, _, key = OF_IMAGES[name].key.rpartition(".")
        changed = {table: tables.value(settings, table)._replace(**{key: value})} if table else {key: value}
        settings = settings._replace(**changed)
    return MachineSettings(*(getattr(settings, field) for field in MachineSettings._fields))


def _with_profile(settings: Settings, name: str) -> Settings:
    from . import profiles

    profile = profiles.find(name, settings.profiles)
    if profile.user_namespace is not None:
        settings = settings._replace(user_namespace=profile.user_namespace)
    if profile.network:
        settings = settings._replace(network=settings.network._replace(mode=profile.network))
    return settings._replace(profile=name)
