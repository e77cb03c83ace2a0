"""The settings as types, with their defaults: no more than what each stage has to load.

What may stand in them is in schema.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..light_typing import TYPE_CHECKING, Any, NamedTuple
from .paths import STATE_FOLDER

if TYPE_CHECKING:
    from .policy import Rule
    from .profiles import Profile

UNLIMITED = float("inf")


class Limits(NamedTuple):
    """What a machine may use, in the words of the settings; ``auto`` is the host's, divided by ``concurrent``.

    ``concurrent`` 0 is what gitlab-runner's config.toml says, ``open_files`` 0 what systemd gives.
    """

    concurrent: int = 0
    cpu_weight: int = 50
    cpus: float | str = "infinity"
    allowed_cpus: str = ""
    memory_max: str = "50%"
    memory_high: str = "infinity"
    memory_swap_max: str = "infinity"
    tasks_max: int = 16384
    io_weight: int = 100
    open_files: int = 0
    locked_memory: str = "8M"
    disk_max: str = "infinity"
    runtime_max_seconds: int = 86400


class Network(NamedTuple):
    """What network machines have; without a ``subnet`` a free one is chosen (machines.network.with_subnet)."""

    mode: str = "private"
    bridge: str = "nspr0"
    subnet: str = ""
    dns: tuple[str, ...] = ()
    closed: tuple[str, ...] = ("metadata",)
    host_ports: tuple[str, ...] = ()
    extra_hosts: Mapping[str, str] = {}
    connections_max: int = 16384


class Gc(NamedTuple):
    """What gc leaves of caches."""

    cache_days: int = 30
    cache_size: str = "infinity"


class Packages(NamedTuple):
    """Where packages come from."""

    proxy: str = ""


class Metrics(NamedTuple):
    """Where metrics are written."""

    file: str = ""


class Settings(NamedTuple):
    """The settings of the host."""

    state_folder: str = STATE_FOLDER
    backend: str = "auto"
    tmpfs_size: str = "4G"
    user_namespace: bool = True
    default_image: str = ""
    shell: str = "/bin/bash"
    user: str = ""
    builds_dir: str = "/builds"
    cache_dir: str = "/cache"
    keep_builds: bool = False
    gitlab_runner: str = "auto"
    stop_grace_seconds: int = 10
    keep_failed: str = ""
    journal_file: str = ""
    allowed_images: tuple[str, ...] = ("*",)
    allowed_services: tuple[str, ...] = ()
    services_max: int = 10
    profile: str = "default"
    images: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}
    profiles: Mapping[str, Profile] = {}
    policy: tuple[Rule, ...] = ()
    limits: Limits = Limits()
    network: Network = Network()
    gc: Gc = Gc()
    metrics: Metrics = Metrics()
    packages: Packages = Packages()


class Amounts(NamedTuple):
    """What a machine may use: bytes, CPUs, seconds or counts; UNLIMITED for no limit.

    ``open_files`` 0 is what systemd gives, ``allowed_cpus`` a list as in ``0-3,6``, empty for all.
    """

    cpu_weight: int = 100
    cpus: float = UNLIMITED
    allowed_cpus: str = ""
    memory_max: float = UNLIMITED
    memory_high: float = UNLIMITED
    memory_swap_max: float = UNLIMITED
    tasks_max: float = UNLIMITED
    io_weight: int = 100
    open_files: int = 0
    locked_memory: float = UNLIMITED
    disk_max: float = UNLIMITED
    runtime_max_seconds: float = UNLIMITED


def value(settings: Settings, key: str) -> Any:
    """Return the value of the dotted ``key`` in ``settings``."""
    found: Any = settings
    for part in key.split("."):
        found = getattr(found, part)
    return found
