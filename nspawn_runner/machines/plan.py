"""What a machine is to be: all that its start needs to know, as numbers and names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from ..light_typing import NamedTuple
from ..settings import profiles
from ..settings.machine_settings import MachineSettings
from ..settings.profiles import Profile
from ..settings.quantities import seconds
from ..settings.tables import Amounts, Network, Settings
from . import script_user


class Service(NamedTuple):
    """What the machine of a service is besides: in the network of the machine ``of_job``, with files for its start.

    ``variables`` become the environment of its units; ``command``, where there is one, is run as a unit of its own.
    """

    name: str
    of_job: str
    place: int
    variables: Mapping[str, str]
    command: Sequence[str]


class Plan(NamedTuple):
    """The machine that is asked for; ``binds`` are options of systemd-nspawn, for binds and the like.

    ``owner`` is the process without which nobody needs it, in the words of callers. With ``in_place`` it has no layer:
    it changes the tree itself. ``user`` gets the folders ``users_folders`` in the machine. ``names`` are those of
    the machines in the job's network, by their places; without any it has none.
    ``package_proxy`` is what the setting says. ``claim_builds``, where it is not None, returns a folder of the host for
    ``builds_dir`` that is none of those which other machines have.
    By its ``token`` services know their job. Together they use no more than ``ceiling``. ``service`` is its service.
    """

    job: str
    server: str
    project: str
    image: str
    generation: str
    root: str
    state_folder: str
    backend: str
    tmpfs_size: str
    profile_name: str
    profile: Profile
    user_namespace: bool
    shell: str
    user: str
    users_folders: Sequence[str]
    network: Network
    amounts: Amounts
    keep_failed_seconds: int = 0
    binds: Sequence[str] = ()
    in_place: bool = False
    owner: str = ""
    environment: str = ""
    names: Mapping[int, Sequence[str]] = {}
    token: str = ""
    ceiling: Amounts = Amounts()
    package_proxy: str = ""
    claim_builds: Callable[[Collection[str]], str] | None = None
    builds_dir: str = ""
    service: Service | None = None


def make(
    settings: Settings,
    own: MachineSettings,
    amounts: Amounts,
    *,
    job: str,
    server: str,
    project: str,
    image: str,
    generation: str,
    root: str,
    binds: Sequence[str] = (),
    in_place: bool = False,
    owner: str = "",
    environment: str = "",
    names: Mapping[int, Sequence[str]] | None = None,
    token: str = "",
    ceiling: Amounts | None = None,
    service: Service | None = None,
) -> Plan:
    """Return the plan of a machine with the host's ``settings``, those of its image, and the other fields as given."""
    return Plan(
        job=job,
        server=server,
        project=project,
        image=image,
        generation=generation,
        root=root,
        state_folder=settings.state_folder,
        backend=own.backend,
        tmpfs_size=settings.tmpfs_size,
        profile_name=own.profile,
        profile=profiles.find(own.profile, settings.profiles),
        user_namespace=own.user_namespace,
        shell=own.shell,
        user=own.user or script_user.ROOT,
        users_folders=(settings.builds_dir, settings.cache_dir),
        network=own.network,
        amounts=amounts,
        keep_failed_seconds=seconds(settings.keep_failed) or 0,
        binds=binds,
        in_place=in_place,
        owner=owner,
        environment=environment,
        names=names or {},
        token=token,
        ceiling=ceiling or Amounts(),
        service=service,
        package_proxy=settings.packages.proxy,
        builds_dir=settings.builds_dir,
    )
