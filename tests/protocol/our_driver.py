"""Our driver under the stand-in for gitlab-runner, and the traces that a job may leave in a host: none."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

from disposable_host import CHECKOUT, DisposableHost
from runner import NEW, Driver, JobResult, RunnerStandIn

TOOL = str(CHECKOUT / "nspawn-runner")
DRIVER = Driver.of(TOOL)
IMAGE = "bookworm"
SETTINGS = "/etc/nspawn-runner/nspawn-runner.toml"
FAST = replace(NEW, retry_seconds=0.05)

# One line for each thing that could be left. The bridges, the last slot, the settings and the rules are meant to stay.
TRACES = r"""
awk '{ print "mount " $5 }' /proc/self/mountinfo
systemctl list-units --all --plain --no-legend 'nspawn-runner*' | awk '{ print "unit " $1 }'
systemctl --failed --plain --no-legend | awk '{ print "failed " $1 }'
machinectl list --no-legend | awk '{ print "machine " $1 }'
ls /sys/class/net | grep --invert-match --line-regexp -e nspr0 -e nspr-waiting | sed 's/^/interface /'
find /run/nspawn-runner /run/systemd/nspawn/* /run/systemd/machines /run/systemd/transient \
    /var/lib/nspawn-runner/.overlays /var/lib/nspawn-runner/.snapshots /tmp/custom-executor* \
    -mindepth 1 -maxdepth 2 ! -name slots.last ! -name settings ! -name firewall -printf 'path %p\n'
find /sys/fs/cgroup -path '*machine.slice/*' -printf 'group %p\n'
ps -eo args --no-headers | grep -E '[s]ystemd-nspawn|[s]ystemd-run|nspawn-runne[r] ' | sed 's/^/process /'
true
"""


def traces(host: DisposableHost) -> set[str]:
    """Everything in the host that belongs to a machine or to a call of the driver."""
    shell = host.run(["sh", "-c", TRACES])
    return set(shell.stdout.decode().splitlines())


def stand_in(host: DisposableHost) -> Iterator[RunnerStandIn]:
    """A runner with our driver in the host; afterwards nothing must be left of any job: the body of a fixture."""
    before = traces(host)
    yield RunnerStandIn(host, DRIVER, FAST)
    deadline = time.monotonic() + 2
    # the kernel and systemd-machined may take a moment longer than our cleanup
    while (left := traces(host) - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, sorted(left)


def assert_sound(result: JobResult) -> None:
    """Check what holds for every job: no stage is held up by its output, and no call leaves a process or is noisy."""
    shown = result.trace.decode(errors="replace")
    for call in result.calls:
        assert call.ended, (call.stage, shown)
        assert call.eof_delay < 1, (call.stage, call.eof_delay)
        assert not call.survivors or call.status == -signal.SIGKILL, call.stage
        if call.stage == "cleanup":
            assert (call.status, call.stdout, call.stderr) == (0, b"", b""), call
    assert b"Traceback" not in result.trace, shown


def in_machine(host: DisposableHost, machine: str, command: str) -> str:
    """Run a line of shell in a machine, beside its job, and give its output."""
    argv = ["systemd-run", f"--machine={machine}", "--quiet", "--pipe", "--wait", "--collect", "/bin/sh", "-c", command]
    return host.run(argv).stdout.decode()


def write(host: DisposableHost, path: str, content: str, *, mode: int = 0o644) -> None:
    """Write a file in the host, with its folder."""
    file = host.path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    file.chmod(mode)


def with_prepare(before: str) -> Driver:
    """Our driver with a line of shell that comes before each prepare."""
    return replace(DRIVER, prepare=["sh", "-c", f'{before}\nexec {shlex.quote(TOOL)} prepare "$@"', "prepare"])
