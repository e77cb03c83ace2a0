"""Every setting: its check, what the documents say of it, and who else may set it; types and defaults: tables.

The tables of docs/settings.md and docs/playbooks.md, the keys of nspawn-runner.toml(5) and the sample of the settings
are written from here by script/write_docs.py.
"""

from __future__ import annotations

from collections.abc import Callable

from ..light_typing import Any, NamedTuple
from ..names import is_image_name, is_image_pattern
from . import package_proxy, value_checks
from .value_checks import Count, Cpus, Size, list_of


class Setting(NamedTuple):
    """A setting, or a table of them, by its dotted ``key``.

    ``check`` returns what is wrong with a value as TOML has it; without one, a table of rows or what load reads itself.
    ``help`` is what all documents say, ``details`` what only the manual page adds, ``example`` lines of the sample;
    words in backticks are code. ``image`` is the key by which an image may set it for its machines. A job may set a
    limit with ``job``, by the variable NSPAWN_<KEY>. ``number`` are the bounds of a limit that is a number.
    """

    key: str
    check: Callable[[Any], str] | None = None
    help: str = ""
    details: str = ""
    example: str = ""
    image: str = ""
    job: bool = False
    number: Count | Size | Cpus | None = None


def _text(check: Callable[[str], str]) -> Callable[[Any], str]:
    return lambda value: check(value) if type(value) is str else "must be a text in quotes"


def _flag(value: Any) -> str:
    return "" if type(value) is bool else "must be true or false"


def _whole(check: Callable[[int], str]) -> Callable[[Any], str]:
    return lambda value: check(value) if type(value) is int else "must be a whole number"


def _or_empty(check: Callable[[str], str]) -> Callable[[Any], str]:
    return _text(lambda value: check(value) if value else "")


# The least of memory and tasks below: a machine needs some 30 MiB and 10 tasks to boot.
def _limit(
    key: str, number: Count | Size | Cpus, text: str, details: str = "", *, job: bool = True, image: bool = True
) -> Setting:
    image_key = key if image else ""
    return Setting(f"limits.{key}", number.problem, text, details, image=image_key, job=job, number=number)


SETTINGS = (
    Setting(
        "state_folder",
        _text(value_checks.absolute_path),
        "Where images, the changes of running machines and the caches of projects are.",
    ),
    Setting(
        "backend",
        _text(value_checks.one_of("auto", "overlay", "btrfs", "tmpfs")),
        "Where a machine's changes go: "
        '`"overlay"`, `"btrfs"` (snapshots), `"tmpfs"` (memory); `"auto"`: btrfs where `state_folder` is on one, else '
        "overlay.",
        image="backend",
    ),
    Setting(
        "tmpfs_size",
        _text(value_checks.size),
        "How much memory the changes of a machine may take with the backend tmpfs.",
        "A share of the host's memory is possible too, as in `\"10%\"`.",
    ),
    Setting("user_namespace", _flag, "With `false`, root in a job is root on the host: for trusted jobs that need it."),
    Setting(
        "default_image",
        _or_empty(value_checks.image_name),
        "The image of jobs that ask for none.",
        "`prepare --default-image` has precedence.",
    ),
    Setting(
        "shell", _text(value_checks.absolute_path), "The shell in the machine that runs the scripts.", image="shell"
    ),
    Setting(
        "user",
        _text(value_checks.user),
        "The user of the image that runs the scripts and owns `builds_dir` and `cache_dir`; empty: root.",
        image="user",
    ),
    Setting(
        "builds_dir",
        _text(value_checks.absolute_path),
        "Where projects are checked out, in the machine.",
        "It must not be in `cache_dir`.",
    ),
    Setting("cache_dir", _text(value_checks.absolute_path), "Where the project's cache is, in the machine."),
    Setting(
        "keep_builds",
        _flag,
        "Whether a project's folder in `builds_dir` is kept for its next job, so that `GIT_STRATEGY: fetch` fetches "
        "only what is new.",
        "Jobs at the same time have one each. Protected refs have others than the rest, as of caches; gc removes them "
        "as it does caches. What a job leaves there, its next one of the same project finds.",
        image="keep_builds",
    ),
    Setting(
        "gitlab_runner",
        _text(value_checks.program),
        "The host's gitlab-runner, which cache and artifacts need in the machine: a path, or `\"auto\"`; empty: the "
        "image's own, or none.",
        '`"auto"` is `/usr/bin/gitlab-runner` or `/usr/local/bin/gitlab-runner`. It replaces one that the image has, '
        "which may be of another version.",
    ),
    Setting(
        "stop_grace_seconds",
        _whole(value_checks.between(0, 180)),
        "How long a cancelled script may take to end after SIGTERM, in seconds: 0 to 180.",
    ),
    Setting(
        "keep_failed",
        _text(value_checks.time),
        'How long the root of a failed job is kept for `nspawn-runner login JOB`, such as `"30min"`, `"2h"` or '
        '`"1d"`; empty: not at all.',
        "A cancelled job is a failed one. `gc`, which runs every hour, removes it then, as does a restart of the host. "
        "With the backend tmpfs, or where less than a tenth of the state folder's disk is free, nothing is kept. "
        "Until then its image cannot be removed, nor the generation that it started from. It may hold secrets of the "
        "job, readable by root only.",
    ),
    Setting(
        "journal_file",
        _text(value_checks.relative_file),
        "Where the machine's journal is left in the project's folder for `artifacts:`, such as "
        '`"journal.txt"`; empty: nowhere.',
        "It is written before artifacts are uploaded, with the rights of the user that runs the scripts. A folder in "
        'the path, as in `"logs/machine.txt"`, must exist.',
    ),
    Setting(
        "allowed_images",
        list_of(is_image_pattern, "local images' names or shell patterns of them"),
        "Local images that every job may use, as names or shell patterns.",
        "Patterns have * ? and [...]. What counts is the local image that a job gets, not the name that it asks for, "
        "nor an alias.",
        'allowed_images = ["bookworm", "trixie*"]',
    ),
    Setting(
        "allowed_services",
        list_of(is_image_pattern, "local images' names or shell patterns of them"),
        "Local images that every job may use for its `services:`, as names or shell patterns; empty: those of "
        "`allowed_images`.",
        "What a [[policy]] gives of images is allowed for services too.",
        'allowed_services = ["postgres", "redis"]',
    ),
    Setting(
        "services_max",
        _whole(value_checks.between(0, 100)),
        "How many services a job may have; 0: none.",
        "Each is a machine with the limits of its image, beside those of the job's own machine.",
    ),
    Setting(
        "profile",
        _text(lambda value: "" if is_image_name(value) else "must be the name of a profile"),
        'What machines may do: `"default"`, `"nesting"` (containers and image builds in jobs), `"trusted"` (root in '
        "a job is root on the host), or a profile of your own.",
        "The playbook of an image may name another one. See PROFILES.",
        '[profiles.packages]\nbase = "nesting"\nbinds = ["/srv/mirror", "/srv/out:/out:rw"]\ntmpfs = { "/tmp" = "2G" }',
        image="profile",
    ),
    Setting(
        "images",
        value_checks.images,
        "What a job asks for (a name or a shell pattern) and the local image that it gets.",
        "Exact keys come first, then patterns in their order, then images of that name.",
        '[images]\n"python:*" = "bookworm"\n"registry.example.com/team/web:*" = "web"',
    ),
    Setting(
        "environment",
        value_checks.environment,
        "Variables for the scripts of all jobs.",
        "What an image or a job sets takes precedence. Nothing secret: every job can read it.",
        '[environment]\nPIP_INDEX_URL = "http://pypi.example.com/simple"\nNPM_CONFIG_REGISTRY = "http://npm.example.com"',
    ),
    Setting("profiles"),
    Setting("policy"),
    Setting(
        "limits",
        None,
        "What a machine may use.",
        "A job can set all but `concurrent` and `allowed_cpus` by a variable, NSPAWN_ and the key in capitals, as in "
        "NSPAWN_MEMORY_MAX=2G or NSPAWN_CPUS=1.5: lower than here, or as far as the ceilings of a rule go.",
    ),
    _limit(
        "concurrent",
        Count(0),
        "How many jobs share the host, for `\"auto\"`; 0: as gitlab-runner's config.toml says.",
        "That is the file that $CONFIG_FILE names, or `/etc/gitlab-runner/config.toml`; 1 where there is none.",
        job=False,
        image=False,
    ),
    _limit(
        "cpu_weight",
        Count(1, 10000),
        "Share of the CPUs when all are busy, 1 to 10000, against 100 for other services of the host.",
    ),
    _limit(
        "cpus",
        Cpus(),
        "How many CPUs it can keep busy: a number such as 1.5, or `\"auto\"` for the host's, divided by `concurrent`.",
        "At least 0.1.",
    ),
    Setting(
        "limits.allowed_cpus",
        _text(value_checks.cpu_list),
        'Which CPUs it runs on, such as `"0-3,6"`; empty: all.',
        "With cgroup version 1 its processes can choose others.",
        image="allowed_cpus",
    ),
    _limit(
        "memory_max",
        Size(64 << 20, auto=True),
        "Memory: a size, a share of the host's, "
        '`"infinity"` or `"auto"`. For more, a process of the job is killed.',
        "At least 64M. `/tmp` holds at most half of it.",
    ),
    _limit(
        "memory_high",
        Size(64 << 20),
        "Memory from which on it is slowed down; without swap, to a crawl.",
        "At least 64M. Not with cgroup version 1.",
    ),
    _limit(
        "memory_swap_max",
        Size(0),
        "Swap: a size, or a share of the host's memory.",
        "Not with cgroup version 1.",
    ),
    _limit("tasks_max", Count(64), "Processes and threads, at least 64."),
    _limit(
        "io_weight",
        Count(1, 10000),
        "Share of the disks when they are busy, 1 to 10000, against 100 for other services of the host.",
        "Only where the disks' scheduler has shares.",
    ),
    _limit(
        "open_files",
        Count(1024, zero=True),
        "Open files of a process, at least 1024; 0: as systemd gives, 1024 and 524288 for one that asks.",
    ),
    _limit(
        "locked_memory",
        Size(64 << 10),
        'How much memory a process can lock, as databases and search engines ask for; also `"infinity"`.',
        "At least 64K; a share of the host's memory is possible too. It counts for `memory_max`, which bounds it. A "
        "service of the machine gets what it asks for in its unit (LimitMEMLOCK=) up to this.",
    ),
    _limit(
        "disk_max",
        Size(64 << 20, auto=True, share=False),
        "What it can write, without the cache: a size such as `\"20G\"`, or `\"auto\"` for the disk's, divided by "
        "`concurrent`. Its changes are then in a file, on overlay.",
        "At least 64M. The disk is that of `state_folder`. The changes go to a file system of their own in a sparse "
        "file, whatever `backend` says, which is the upper part of an overlay; making it takes the start some time. As "
        "much as the disk has, or more, is no limit.",
    ),
    _limit(
        "runtime_max_seconds",
        Count(60),
        "The end of a machine whose job has no time-out of its own, in seconds.",
        "At least 60. With a time-out, the machine ends half an hour after it.",
    ),
    Setting("network", None, "What network machines have."),
    Setting(
        "network.mode",
        _text(value_checks.one_of("private", "none", "host")),
        "`\"private\"` (behind NAT), `\"none\"` (loopback alone), `\"host\"` (the host's own).",
        image="network",
    ),
    Setting(
        "network.bridge",
        _text(value_checks.interface),
        "The bridge of machines with a private network; it is made when it does not exist.",
    ),
    Setting(
        "network.subnet",
        _text(value_checks.subnet),
        "Their addresses, an IPv4 /20; empty: one that the host does not use, mostly 10.213.0.0/20.",
        "A chosen one is none that the host has or knows a way to, and stays while the bridge exists. One that is set "
        "may lie within a wider route of the host, but not over addresses of the host's own links.",
    ),
    Setting(
        "network.dns",
        list_of(value_checks.is_address, "addresses of name servers"),
        "Their name servers; empty: the host's, or those that the host's own resolver asks.",
        "Such resolvers are systemd-resolved, NetworkManager's and dnsmasq with resolvconf.",
    ),
    Setting(
        "network.closed",
        list_of(value_checks.is_closable, '"private", "metadata" and IPv4 networks such as "192.0.2.0/24"'),
        'What they cannot reach: networks such as `"192.0.2.0/24"`, `"private"` (all that are not the internet), '
        '`"metadata"` (where clouds tell their machines secrets).',
        "Metadata are at 169.254.0.0/16, 100.100.100.200, 168.63.129.16 and 192.0.0.192. Their name servers can be "
        "asked wherever they are.",
    ),
    Setting(
        "network.host_ports",
        list_of(value_checks.is_port, 'ports of the host such as "tcp/8080"'),
        'What they can reach of the host besides DNS and ping, such as `"tcp/8080"`.',
    ),
    Setting(
        "network.extra_hosts",
        value_checks.extra_hosts,
        'Names and addresses for their /etc/hosts, such as `{ "mirror" = "192.0.2.7" }`.',
    ),
    Setting(
        "network.connections_max",
        _whole(value_checks.between(1, 10_000_000)),
        "How many connections of a machine the host keeps track of, so that no job takes those of all.",
        "A connection counts from its first packet until some minutes after its last. More fail until some of these "
        "are over.",
    ),
    Setting("gc", None, "What `nspawn-runner gc` leaves of the caches of projects."),
    Setting(
        "gc.cache_days",
        _whole(value_checks.between(0, 36500)),
        "A cache that no job used for so many days is removed; 0: none for its age.",
    ),
    Setting(
        "gc.cache_size",
        _text(value_checks.room),
        'Disk space that all caches may take, such as `"20G"`; the longest unused ones are removed first.',
        "None is removed that a machine has or had in the last hour.",
    ),
    Setting("packages", None, "Where packages come from."),
    Setting(
        "packages.proxy",
        _text(package_proxy.problem),
        "A proxy for packages, for apt in machines and for the builders of images: `\"auto\"` (apt-cacher-ng on this "
        "host, if it is there), one such as `\"http://proxy.example.com:3142\"`; empty: none.",
        "apt in a machine asks each time whether it answers, and goes on without it where not. Sources by https do "
        "not use it. Of a proxy on this host machines can reach the port: have a password on its report page.",
    ),
    Setting("metrics", None, "Metrics for Prometheus."),
    Setting(
        "metrics.file",
        _or_empty(value_checks.absolute_path),
        "The file that they are written to, in the folder of node_exporter's textfile collector, such as "
        '`"/var/lib/prometheus/node-exporter/nspawn-runner.prom"`; empty: nowhere.',
        "Its name ends in .prom. Without it nothing is counted. See METRICS in nspawn-runner(8).",
    ),
)
BY_KEY = {setting.key: setting for setting in SETTINGS}
OF_IMAGES = {setting.image: setting for setting in SETTINGS if setting.image}
