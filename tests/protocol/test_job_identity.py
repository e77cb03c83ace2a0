"""Whose job it is comes from the runner: nothing that a project writes changes that, and no secret gets about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from backends import ON_ONE
from disposable_host import DisposableHost
from our_driver import FAST, IMAGE, TOOL, assert_sound, in_machine, stand_in
from runner import ANCIENT, Behaviour, Job, RunnerStandIn

OTHER_SERVER = replace(FAST, server_url="https://other.example.org:8443")
WAIT = "until [ -e /go ]; do sleep 0.05; done"


@pytest.fixture
def runner(host: DisposableHost) -> Iterator[RunnerStandIn]:
    yield from stand_in(host)


@pytest.fixture
def machine_of_4242(runner: RunnerStandIn, host: DisposableHost) -> Iterator[None]:
    """The machine of another job; what is in the way of its end fails the test."""
    host.run([TOOL, "prepare", "--id", "4242", IMAGE])
    boot = in_machine(host, "run-4242", "cat /proc/sys/kernel/random/boot_id")
    yield
    assert in_machine(host, "run-4242", "cat /proc/sys/kernel/random/boot_id") == boot
    host.run([TOOL, "cleanup", "--id", "4242"])


@ON_ONE
def test_a_job_s_own_variables_change_nothing_but_its_scripts(
    runner: RunnerStandIn, host: DisposableHost, machine_of_4242: None
) -> None:
    variables = {
        "CI_JOB_ID": "4242",
        "CI_JOB_IMAGE": "nosuch",
        "CI_PROJECT_ID": "99",
        "CI_SERVER_HOST": "other.example.org",
        "CI_SERVER_URL": "https://other.example.org",
        "CI_COMMIT_REF_PROTECTED": "true",
        "CI_JOB_TIMEOUT": "1",
        "JOB_RESPONSE_FILE": "/nonexistent",
        "BUILD_FAILURE_EXIT_CODE": "0",
        "SYSTEM_FAILURE_EXIT_CODE": "0",
        "BUILD_EXIT_CODE_FILE": "/nonexistent/file",
    }
    tell = 'hostname; echo "$CI_JOB_ID $CI_JOB_IMAGE $CI_PROJECT_ID $JOB_RESPONSE_FILE"; touch /cache/mine'
    job = Job(scripts={"build_script": f"{tell}; echo begun; {WAIT}; exit 5"}, image=IMAGE, variables=variables)
    with runner.start(job) as running:
        running.await_output(b"begun")
        record = json.loads(host.path("/run/nspawn-runner/run-1001.json").read_text())
        in_machine(host, "run-1001", "touch /go")
        result = running.wait(60)
    cache = host.path("/var/lib/nspawn-runner/.cache/gitlab.example.org-7-unprotected/mine")
    assert cache.exists()
    cache.unlink()
    assert (result.status, result.exit_code) == ("script_failure", 5), result.trace.decode()
    assert result.call("build_script").stdout == b"run-1001\n4242 nosuch 99 /nonexistent\nbegun\n"
    known = {name: record[name] for name in ("job", "server", "project", "image")}
    assert known == {"job": "1001", "server": "gitlab.example.org", "project": "7", "image": IMAGE}
    assert_sound(result)


@ON_ONE
@pytest.mark.parametrize("behaviour", [FAST, ANCIENT], ids=["new", "ancient"])
def test_variables_that_steer_programs_do_not_reach_the_driver(
    runner: RunnerStandIn, host: DisposableHost, behaviour: Behaviour
) -> None:
    variables = {
        "PATH": "/nowhere",
        "LD_PRELOAD": "/nowhere/preloaded.so",
        "LD_LIBRARY_PATH": "/nowhere",
        "PYTHONPATH": "/nowhere",
        "PYTHONHOME": "/nowhere",
        "TMPDIR": "/nowhere",
        "HOME": "/nowhere",
        "LANG": "xx_XX",
        "BASH_ENV": "/nowhere",
        "SYSTEMD_LOG_LEVEL": "debug",
        "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere",
    }
    scripts = {
        "get_sources": '/bin/mkdir -p "$CI_PROJECT_DIR" 2> /dev/null',
        "build_script": 'echo "$PATH $TMPDIR $HOME"',
        "prepare_script": ":",
        "cleanup_file_variables": ":",
    }
    result = runner.job(Job(scripts=scripts, image=IMAGE, variables=variables), behaviour)
    assert result.status == "success", result.trace.decode()
    assert_sound(result)
    assert result.call("build_script").stdout.startswith(b"/nowhere /nowhere /nowhere\n")
    # That the machine is ready, what the script said, and what the job took.
    assert result.trace.count(b"\n") == 3, result.trace.decode()


# Where in the host is what stands on its input? Processes in machines have the script's variables, as they should.
LOOK = r"""
import os, re, sys
secret = sys.stdin.buffer.read()
def content(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
for pid in filter(str.isdigit, os.listdir("/proc")):
    arguments = content(f"/proc/{pid}/cmdline")
    if re.search(rb"^NSpid:\s*\d+$", content(f"/proc/{pid}/status"), re.M):
        for kind in ("cmdline", "environ"):
            if secret in content(f"/proc/{pid}/{kind}"):
                print(kind, arguments.replace(b"\0", b" "))
for folder, names, files in os.walk("/run"):
    names[:] = [name for name in names if not os.path.ismount(os.path.join(folder, name))]
    for path in (os.path.join(folder, name) for name in files):
        if os.path.isfile(path) and not os.path.islink(path) and secret in content(path):
            print("file", path)
"""


@pytest.mark.parametrize("behaviour", [FAST, ANCIENT], ids=["new", "ancient"])
def test_secrets_stay_where_they_belong(runner: RunnerStandIn, host: DisposableHost, behaviour: Behaviour) -> None:
    secret = f"hush-hush-{host.state}-{behaviour.one_pipe}"
    job = Job(
        scripts={"build_script": f"(sleep 300) & echo begun; {WAIT}; exit 3", "after_script": "true"},
        image=IMAGE,
        variables={"PASSWORD": secret},
        file_variables={"KEY": secret},
        payload={"token": secret, "credentials": [{"type": "registry", "username": "ci", "password": secret}]},
    )
    with runner.start(job, behaviour) as running:
        running.await_output(b"begun")
        look = host.run(["python3", "-c", LOOK], stdin=secret.encode())
        in_machine(host, "run-1001", "touch /go")
        result = running.wait(60)
    assert result.status == "script_failure"
    # the runner gave it to run itself
    found = {line for line in look.stdout.decode().splitlines() if f"{TOOL} run " not in line}
    assert not found
    assert "environ b'" in look.stdout.decode()
    assert secret.encode() not in result.trace
    journal = host.run(["journalctl", "--no-pager", "--output=export"]).stdout
    assert secret.encode() not in journal
    assert b"secret-of-job-1001" not in journal + result.trace


@ON_ONE
def test_two_servers_with_the_same_job_id(runner: RunnerStandIn, host: DisposableHost) -> None:
    """Started at the same moment: each has its own machine, and takes away that one alone."""
    script = f'hostname; cat /etc/machine-id; echo "begun $CI_SERVER_URL"; {WAIT}; exit '
    one = Job(scripts={"build_script": script + "11", "after_script": "hostname"}, image=IMAGE)
    other = replace(one, scripts={**one.scripts, "build_script": script + "22"})
    with runner.start(one) as first, runner.start(other, OTHER_SERVER) as second:
        first.await_output(b"begun https://gitlab.example.org\n")
        second.await_output(b"begun https://other.example.org:8443\n")
        names = [first.trace.split()[3].decode().strip(","), second.trace.split()[3].decode().strip(",")]
        assert "run-1001" in names
        assert len(set(names)) == 2
        in_machine(host, names[0], "touch /go")
        ended = first.wait(60)
        # the cleanup of the one leaves the other at work
        in_machine(host, names[1], "touch /go")
        later = second.wait(60)
    for name, result, number in ((names[0], ended, 11), (names[1], later, 22)):
        assert (result.status, result.exit_code) == ("script_failure", number), result.trace.decode()
        assert result.call("build_script").stdout.split()[0] == name.encode()
        assert result.call("after_script").stdout == f"{name}\n".encode()
        assert_sound(result)
