"""Jobs that cannot start: what the job asked wrongly fails at once, what is wrong with the host is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from backends import ON_ONE
from disposable_host import STATE_FOLDER, DisposableHost
from our_driver import DRIVER, FAST, IMAGE, SETTINGS, TOOL, assert_sound, stand_in, traces, with_prepare, write
from runner import ANCIENT, OLD, Behaviour, Job, RunnerStandIn

UP = {"build_script": "echo up"}
# A line of shell before each prepare: it heals the fault before the third.
THIRD = "echo x >> /tmp/tries; if [ $(wc --lines < /tmp/tries) = 3 ]; then {heal}; fi"


@pytest.fixture
def runner(host: DisposableHost) -> Iterator[RunnerStandIn]:
    yield from stand_in(host)


@pytest.fixture
def layers(host: DisposableHost) -> str:
    """The folder of the machines' layers; it is there."""
    folder = f"{STATE_FOLDER}/{'.snapshots' if host.state == 'btrfs' else '.overlays'}"
    host.path(folder).mkdir(mode=0o700, exist_ok=True)
    return folder


@pytest.fixture
def bad_settings(host: DisposableHost) -> Iterator[None]:
    write(host, SETTINGS, "state_foldr = 'x'\n[network]\nsubnet = 5\n")
    yield
    host.path(SETTINGS).unlink(missing_ok=True)


@pytest.fixture
def overlapping_network(host: DisposableHost) -> Iterator[None]:
    """Another bridge is wanted, with addresses that the host's own network has."""
    write(host, SETTINGS, "[network]\nbridge = 'nspr9'\nsubnet = '10.0.0.0/20'\n")
    yield
    host.path(SETTINGS).unlink(missing_ok=True)


@pytest.fixture
def no_room(host: DisposableHost, layers: str) -> Iterator[str]:
    host.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", layers])
    yield layers
    host.run(["umount", layers], check=False)


@pytest.fixture
def tries(host: DisposableHost) -> Iterator[None]:
    yield
    host.path("/tmp/tries").unlink(missing_ok=True)


@pytest.fixture
def dead_image(host: DisposableHost) -> Iterator[str]:
    """An image whose init ends at once."""
    image = f"{STATE_FOLDER}/dead"
    write(host, f"{image}/etc/os-release", "ID=dead\n")
    write(host, f"{image}/sbin/init", "#!/bin/sh\n", mode=0o755)
    host.path(f"{image}/usr").mkdir()
    yield "dead"
    host.run(["rm", "--recursive", image])


@ON_ONE
@pytest.mark.parametrize("behaviour", [FAST, OLD, ANCIENT], ids=["new", "old", "ancient"])
@pytest.mark.parametrize("image", ["nosuch", "../../etc", "registry.example.com:5000/group/nosuch:1", "--help"])
def test_an_unknown_image_is_the_job_s_fault(runner: RunnerStandIn, image: str, behaviour: Behaviour) -> None:
    result = runner.job(Job(scripts=UP, image=image), behaviour)
    assert (result.status, result.exit_code) == ("script_failure", behaviour.build_failure_exit_code)
    assert result.stages == ["config", "prepare", "cleanup"]
    lines = result.trace.decode().splitlines()
    assert len(lines) <= 3
    assert lines[0].startswith("nspawn-runner: ")
    assert image in lines[0]
    assert "there are: " in lines[1]
    assert IMAGE in lines[1]
    assert_sound(result)


@ON_ONE
def test_no_image_is_the_job_s_fault(runner: RunnerStandIn) -> None:
    result = runner.job(Job(scripts=UP))
    assert result.status == "script_failure"
    assert result.stages == ["config", "prepare", "cleanup"]
    assert b"nspawn-runner: the job asks for no image and there is no default\n" in result.trace
    driver = replace(DRIVER, prepare=[TOOL, "prepare", "--default-image", IMAGE])
    assert RunnerStandIn(runner.host, driver, FAST).job(Job(scripts=UP)).status == "success"


@ON_ONE
def test_bad_settings(runner: RunnerStandIn, bad_settings: None) -> None:
    """All mistakes are told, at each try."""
    result = runner.job(Job(scripts=UP, image=IMAGE))
    assert result.status == "system_failure"
    assert result.stages == ["config", "cleanup"] * 3
    for number in (1, 2, 3):
        call = result.call("config", number)
        assert (call.status, call.stdout) == (FAST.system_failure_exit_code, b"")
        assert f"the settings {SETTINGS} are wrong in 2 places".encode() in call.stderr
        assert b"state_foldr" in call.stderr
        assert b"network.subnet" in call.stderr
        assert result.call("cleanup", number).status == 0


def test_settings_broken_during_a_job_do_not_keep_its_machine(runner: RunnerStandIn, host: DisposableHost) -> None:
    with runner.start(Job(scripts={"build_script": "echo begun; sleep 300"}, image=IMAGE)) as running:
        running.await_output(b"begun")
        write(host, SETTINGS, "nonsense\n")
        try:
            running.act("abort")
            result = running.wait(60)
        finally:
            host.path(SETTINGS).unlink()
    assert result.call("cleanup").status == 0
    assert b"are not valid TOML" in result.call("cleanup").stderr
    assert not [line for line in traces(host) if "run-1001" in line]


@ON_ONE
def test_a_network_that_the_host_has_already(runner: RunnerStandIn, overlapping_network: None) -> None:
    result = runner.job(Job(scripts=UP, image=IMAGE))
    assert result.status == "system_failure"
    assert result.stages == ["config", "prepare", "cleanup"] * 3
    said = b"the machines' network 10.0.0.0/20 overlaps what the host has: 10.0.2.0/24"
    assert said in result.call("prepare", 3).stderr
    assert_sound(result)


def test_an_image_that_does_not_boot(runner: RunnerStandIn, dead_image: str) -> None:
    result = runner.job(Job(scripts=UP, image=dead_image))
    assert result.status == "system_failure", result.trace.decode()
    assert result.stages == ["config", "prepare", "cleanup"] * 3
    assert b"nspawn-runner: the machine run-1001 did not start from image dead\n" in result.call("prepare").stderr
    assert_sound(result)


def test_no_room_for_layers_until_the_third_try(runner: RunnerStandIn, no_room: str, tries: None) -> None:
    driver = with_prepare(THIRD.format(heal=f"umount {no_room}"))
    result = RunnerStandIn(runner.host, driver, FAST).job(Job(scripts=UP, image=IMAGE))
    assert result.status == "success", result.trace.decode()
    assert result.stages[:8] == ["config", "prepare", "cleanup"] * 2 + ["config", "prepare"]
    for number in (1, 2):
        call = result.call("prepare", number)
        assert call.status == FAST.system_failure_exit_code
        assert call.stderr.startswith(b"nspawn-runner: ")
    assert b"up\n" in result.trace
    assert_sound(result)


@ON_ONE
@pytest.mark.parametrize("behaviour", [FAST, ANCIENT], ids=["new", "ancient"])
def test_settings_mended_before_the_third_try(
    runner: RunnerStandIn, overlapping_network: None, tries: None, behaviour: Behaviour
) -> None:
    driver = with_prepare(THIRD.format(heal=f"rm {SETTINGS}"))
    behaviour = replace(behaviour, retry_seconds=0.05)
    result = RunnerStandIn(runner.host, driver, behaviour).job(Job(scripts=UP, image=IMAGE))
    assert result.status == "success", result.trace.decode()
    assert result.stages[:8] == ["config", "prepare", "cleanup"] * 2 + ["config", "prepare"]
    assert_sound(result)


def test_without_a_cleanup_in_between(runner: RunnerStandIn, host: DisposableHost) -> None:
    """A driver killed in prepare, and a runner that has no cleanup: the next try takes away what is in its way."""
    kill = f"if mkdir /tmp/first 2> /dev/null; then timeout --signal=KILL 0.35 {TOOL} prepare; exit 92; fi"
    driver = replace(with_prepare(kill), cleanup=None)
    try:
        result = RunnerStandIn(host, driver, FAST).job(Job(scripts=UP, image=IMAGE))
        assert result.status == "success", result.trace.decode()
    finally:
        host.path("/tmp/first").rmdir()
        host.run([TOOL, "cleanup", "--id", "1001"])
