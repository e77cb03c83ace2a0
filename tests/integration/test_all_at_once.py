# ruff: noqa: S607
"""gitlab-runner and all drivers killed, or the host rebooted, in the middle of five jobs: one gc leaves nothing."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from by_hand import HOLDINGS, HOLDINGS_SOON, TOOL, Job, Unchanged, difference, lines_of, payload, wait_until, write
from disposable_host import STATE_FOLDER, DisposableHost

MORE = r"""
nft --terse list ruleset | sed 's/^/nftables /'
losetup --list --noheadings --output BACK-FILE | grep -E '/run-(59[0-9]{4})[.]disk' | sed 's/^/loop /'
"""
LONG = "echo ready; sleep 600"


def test_all_processes_are_killed(host: DisposableHost) -> None:
    with Unchanged(host):
        before = lines_of(host, MORE)
        runner = five_jobs(host, 590000)
        kill = "pkill -KILL --exact gitlab-runner; pkill -KILL --full '[n]spawn-runner (prepare|run|cleanup)'"
        host.run(["sh", "-c", f"{kill}; true"])
        runner.wait(timeout=60)
        # A systemd-run that prepare called may still be about to start the unit.
        wait_until(lambda: lines_of(host, "pgrep --full '[s]ystemd-run .*--machine=run-590004'") == [])
        told = host.run([TOOL, "gc", "--json"], check=False)
        assert told.returncode == 0, told.stdout + told.stderr
        assert difference(before, lines_of(host, MORE)) == []


@pytest.mark.parametrize("state", ["overlay", "btrfs"])
def test_host_is_rebooted(state: str, job_image: Path, tmp_path: Path) -> None:
    with state_folder(state, tmp_path) as folder:
        image = folder / "bookworm"
        subprocess.run(["btrfs", "subvolume", "create", image] if state == "btrfs" else ["mkdir", image], check=True)
        subprocess.run(["cp", "--archive", f"{job_image}/.", image], check=True)
        with DisposableHost(state_folder=folder) as host:
            warm(host)
            before = everything(host)
            runner = five_jobs(host, 591000)
            assert len(difference(before, everything(host))) > 40
        runner.wait(timeout=60)
        with DisposableHost(state_folder=folder) as host:
            assert [line for line in difference(before, everything(host)) if "run-59100" in line]
            warm(host)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: difference(before, everything(host)) == [], seconds=10)
            assert difference(before, everything(host)) == []
            with Job(host) as job:
                job.prepare()
                assert job.output("echo works") == "works\n"


@contextlib.contextmanager
def state_folder(state: str, place: Path) -> Iterator[Path]:
    """Make a state folder that outlives a host."""
    folder = place / "state"
    folder.mkdir()
    if state != "btrfs":
        yield folder
        return
    disk = place / "disk"
    subprocess.run(["truncate", "--size=4G", disk], check=True)
    subprocess.run(["mkfs.btrfs", "-q", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def warm(host: DisposableHost) -> None:
    """Call gc once; it makes the folders that stay, and no machine's bridge has been made before."""
    host.run(["sh", "-c", f"umask 077; mkdir -p /run/nspawn-runner {STATE_FOLDER}/.overlays {STATE_FOLDER}/.snapshots"])
    host.run([TOOL, "gc"])


def everything(host: DisposableHost) -> list[str]:
    held = [line.replace(host.name, "HOST") for line in lines_of(host, HOLDINGS + HOLDINGS_SOON + MORE)]
    # two mounts that each host has of its own, under names that are drawn
    return [line for line in held if not line.endswith((" /proc/kmsg", "/random/boot_id"))]


def five_jobs(host: DisposableHost, first: int) -> subprocess.Popen[bytes]:
    """Return a gitlab-runner that calls our stages: one job idles, two run, one starts just now and one is removed."""
    variables = [{"key": "NSPAWN_DISK_MAX", "value": "64M"}]
    jobs = [
        Job(host, str(number), payload=payload(number, variables=variables if number % 5 == 1 else []))
        for number in range(first, first + 5)
    ]
    idle, limited, running, going, coming = jobs

    def call(job: Job, *arguments: str) -> str:
        environment = " ".join(f"{name}={value}" for name, value in job.env.items())
        return f"{environment} {TOOL} {' '.join(arguments)}"

    long = write(host, LONG)
    lines = [f"{call(job, 'prepare')}" for job in (idle, limited, running, going)]
    lines += [f"{call(job, 'run', long, 'build_script')} > /root/out-{job.id} &" for job in (limited, running)]
    lines += [f"until [ -s /root/out-{job.id} ]; do sleep 0.05; done" for job in (limited, running)]
    lines += [f"{call(coming, 'prepare')} &", "sleep 0.2", f"{call(going, 'cleanup')} &", "sleep 0.06"]
    lines += ["touch /root/in-the-middle", "sleep 600", ":"]
    host.run(["cp", "/bin/bash", "/root/gitlab-runner"])
    host.run(["rm", "-f", "/root/in-the-middle"])
    argv = ["/root/gitlab-runner", "-c", "\n".join(lines)]
    runner = host.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: host.path("/root/in-the-middle").exists(), seconds=120)
    return runner
