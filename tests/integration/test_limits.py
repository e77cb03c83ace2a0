"""Limits reach the job, memory kills are named, systemd inside is a whole one, settings that are wrong are told."""

from collections.abc import Iterator

import pytest
from by_hand import BUILD_FAILURE, SYSTEM_FAILURE, Job, Unchanged, wait_until
from disposable_host import DisposableHost

LIMITS = '[limits]\nmemory_max = "300M"\ntasks_max = 150\ncpu_weight = 23\nruntime_max_seconds = 4711\n'
HOG = "python3 -c 'bytearray(600 << 20)'"


@pytest.fixture(scope="module")
def machine(either_host: DisposableHost) -> Iterator[Job]:
    with Job(either_host, settings=LIMITS) as job:
        job.prepare()
        yield job


def test_memory_kill_is_named_and_the_script_goes_on(machine: Job) -> None:
    done = machine.script(f"{HOG}; echo status $?")
    assert (done.status, done.out) == (0, b"status 137\n")
    assert "nspawn-runner: out of memory: limit 300 MiB, peak 300 MiB; processes killed: 1" in done.message
    assert "out of memory" not in machine.script("exit 3").message
    done = machine.script(f"set -e; {HOG}; echo not seen")
    assert (done.status, done.out, done.code) == (BUILD_FAILURE, b"", "137\n")
    assert "out of memory" in done.message


FORKS = """
import os, signal, time
children = []
try:
    while True:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
except OSError as error:
    print(error.strerror, len(children) > 50, len(children) < 150)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_tasks(machine: Job) -> None:
    done = machine.script(f"python3 - <<'END'\n{FORKS}END")
    assert (done.status, done.out) == (0, b"Resource temporarily unavailable True True\n")


def test_unit_has_the_limits(machine: Job) -> None:
    names = ["CPUWeight", "MemoryMax", "TasksMax", "RuntimeMaxUSec", "Delegate", "Slice"]
    shown = machine.host.run(["systemctl", "show", *(f"--property={name}" for name in names), machine.unit]).stdout
    assert set(shown.decode().split()) >= {
        "CPUWeight=23",
        f"MemoryMax={300 << 20}",
        "TasksMax=150",
        "Delegate=yes",
        "Slice=machine.slice",
    }
    assert "RuntimeMaxUSec=1h 18min 31s" in shown.decode().splitlines()


def test_job_cannot_lift_its_limits(machine: Job) -> None:
    tries = (
        "systemctl set-property --runtime -- -.slice MemoryMax=infinity; "
        "for f in $(find /sys/fs/cgroup -name 'memory*limit_in_bytes' -o -name memory.max); do echo -1 > $f; done; "
    )
    done = machine.script(f"({tries}) >/dev/null 2>&1; {HOG}; echo status $?")
    assert done.out == b"status 137\n"


OWN_UNITS = """
cat > /etc/systemd/system/own.service <<'END'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo from-own-service; touch /root/ran'
[Install]
WantedBy=multi-user.target
END
cat > /etc/systemd/system/own.timer <<'END'
[Timer]
OnActiveSec=100ms
AccuracySec=10ms
[Install]
WantedBy=timers.target
END
systemctl daemon-reload
systemctl enable --quiet own.service own.timer
"""


def test_units_of_the_job(machine: Job) -> None:
    machine.output(OWN_UNITS)
    assert machine.output("systemctl is-enabled own.service own.timer") == "enabled\nenabled\n"
    machine.output("systemctl start own.service; test -e /root/ran; rm /root/ran")
    assert machine.output("journalctl --unit=own.service --output=cat | grep from-own") == "from-own-service\n"
    machine.output("systemctl start own.timer")
    wait_until(lambda: machine.script("test -e /root/ran").status == 0)
    machine.output("systemd-run --quiet --wait --collect touch /root/by-systemd-run; test -e /root/by-systemd-run")
    assert machine.output("loginctl list-sessions --no-legend") == ""
    assert machine.output("systemctl is-system-running") == "running\n"


WRONG = {
    "no such setting": ("nonesuch = 1\n", ["nonesuch: no such setting"]),
    "several": (
        'backend = "zfs"\nshell = 1\n[limits]\nmemory_max = "lots"\ntasks_max = "x"\n',
        ["backend: must be one of", "shell: must be", "limits.memory_max: must be", "limits.tasks_max: must be"],
    ),
    "not TOML": ("state_folder = \n", ["not valid TOML"]),
    "not text": ("\xff\xfe\0", ["not valid TOML"]),
    "hostile": ('state_folder = "/../../etc"\n[network]\nbridge = "a b;c"\n', ["state_folder: ", "network.bridge: "]),
    "a table that is none": ("limits = 3\nimages = 4\n", ["limits: must be a table", "images: must be a table"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_settings_are_told_all_at_once(overlay_host: DisposableHost, kind: str) -> None:
    content, expected = WRONG[kind]
    with Unchanged(overlay_host):
        job = Job(overlay_host, settings=content)
        done = job.call("prepare", "bookworm")
        assert (done.status, done.out) == (SYSTEM_FAILURE, b"")
        lines = done.message.splitlines()
        assert 1 <= len(lines) <= 3
        assert str(job.options[1]) in lines[0]
        for text in expected:
            assert text in done.message


def test_settings_that_others_may_write_are_refused(overlay_host: DisposableHost) -> None:
    job = Job(overlay_host, settings="")
    overlay_host.run(["chmod", "666", job.options[1]])
    done = job.call("prepare", "bookworm")
    assert done.status == SYSTEM_FAILURE
    assert "can be written by others than root" in done.message
    missing = Job(overlay_host)
    missing.options = ["--config", "/nonesuch.toml"]
    assert "there is no settings file /nonesuch.toml" in missing.call("prepare", "bookworm").message
