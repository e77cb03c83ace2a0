# ruff: noqa: S607
"""Hosts for all levels of tests, and a guard that keeps unit tests from starting processes."""

import os
import subprocess
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from abilities import require_host
from debian_tree import IN_CI
from disposable_host import STATE_FOLDER, DisposableHost, State, Suite, image_tree
from hypothesis import settings
from this_host import ThisHost

UNIT = Path(__file__).parent / "unit"
IMAGE = "bookworm"
JOURNAL_LINES = 60


@pytest.fixture(scope="session")
def job_image() -> Path:
    """A Debian tree that machines boot from, on this machine: only to be copied."""
    require_host()
    return image_tree()


@pytest.fixture(scope="session")
def overlay_host(request: pytest.FixtureRequest) -> Iterator[DisposableHost]:
    """A bookworm host whose state folder is a plain folder, with an image `bookworm` put there by hand."""
    yield from _host(request, "bookworm", "overlay")


@pytest.fixture(scope="session")
def btrfs_host(request: pytest.FixtureRequest) -> Iterator[DisposableHost]:
    """The same with its state folder on btrfs, where the image is a subvolume."""
    yield from _host(request, "bookworm", "btrfs")


@pytest.fixture(scope="session")
def xfs_host(request: pytest.FixtureRequest) -> Iterator[DisposableHost]:
    """The same with its state folder on xfs, where copies share their blocks."""
    yield from _host(request, "bookworm", "xfs")


@pytest.fixture(scope="session")
def trixie_host(request: pytest.FixtureRequest) -> Iterator[DisposableHost]:
    """The same as `overlay_host` with a newer systemd; its version 2 cgroups may have no controllers, so no limits."""
    yield from _host(request, "trixie", "overlay")


@pytest.fixture(scope="module", params=["ext4", "btrfs"])
def small_host(request: pytest.FixtureRequest) -> Iterator[DisposableHost]:
    """A bookworm host whose state folder is a small file system of its own, which can be full or read-only."""
    yield from _host(request, "bookworm", request.param, size="4G")


@pytest.fixture(params=["overlay", "btrfs"])
def host(request: pytest.FixtureRequest) -> DisposableHost:
    """The bookworm hosts, one after the other."""
    found: DisposableHost = request.getfixturevalue(f"{request.param}_host")
    return found


@pytest.fixture(scope="session")
def either_host(request: pytest.FixtureRequest) -> DisposableHost:
    """A bookworm host for what has nothing to do with where layers and images lie."""
    on_btrfs = request.config.getoption("this_host") and ThisHost().state == "btrfs"
    found: DisposableHost = request.getfixturevalue("btrfs_host" if on_btrfs else "overlay_host")
    return found


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether the long tests run in full: script/test --soak."""
    return bool(request.config.getoption("soak"))


def _host(request: pytest.FixtureRequest, suite: Suite, state: State, *, size: str = "20G") -> Iterator[DisposableHost]:
    if request.config.getoption("this_host"):
        here = ThisHost()
        if (here.state == "btrfs") != (state == "btrfs"):
            pytest.skip(f"the state folder of this host is not on {state}")
        yield here
        return
    job_image: Path = request.getfixturevalue("job_image")
    with DisposableHost(suite=suite, state=state, size=size) as host:
        image = f"{STATE_FOLDER}/{IMAGE}"
        host.run(["btrfs", "subvolume", "create", image] if state == "btrfs" else ["mkdir", image])
        subprocess.run(["cp", "--archive", f"{job_image}/.", host.path(image)], check=True)
        yield host


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.when == "call":
        since = f"--since=-{int(time.time() - call.start) + 1}s"
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, DisposableHost):
                journal = value.run(["journalctl", "--no-pager", f"--lines={JOURNAL_LINES}", since], check=False)
                report.sections.append((f"journal of {name}", journal.stdout.decode(errors="replace")))
    return report


class ProcessStartedError(BaseException):
    """A unit test started a process. Not an Exception, so that no handler in the code under test hides it."""


@pytest.fixture(autouse=True)
def _no_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if UNIT not in request.path.parents or request.node.get_closest_marker("starts_processes"):
        return

    def refuse(*arguments: object, **_: object) -> NoReturn:
        what = [argument for argument in arguments if not isinstance(argument, subprocess.Popen)]
        raise ProcessStartedError(f"a unit test started a process (or mark it starts_processes): {what}")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "execv", "execve"):
        monkeypatch.setattr(os, name, refuse)


# In CI the same cases each time; elsewhere others each time, and what failed is told so that it can be had again.
settings.register_profile("ci", derandomize=True, database=None, print_blob=True, deadline=None)
settings.register_profile("here", print_blob=True, deadline=None)
settings.load_profile("ci" if IN_CI else "here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--this-host", action="store_true", help="use this machine as host: its images, its state folder")
    parser.addoption("--soak", action="store_true", help="run the tests of chaos and scale in full, which takes long")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("soak"):
        config.option.reportchars += "P"  # the figures that the long tests print
    config.addinivalue_line("markers", "starts_processes: a unit test that starts harmless processes on purpose")
    config.addinivalue_line("markers", "soak: a long test that only script/test --soak runs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for."""
    if not config.getoption("soak"):
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
