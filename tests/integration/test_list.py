"""What ``list`` says of machines in every state they can be in."""

import json
import os
import pty
import signal
import subprocess
import time
from typing import Any

import pytest
from by_hand import TOOL, Done, Job, payload, wait_until
from disposable_host import DisposableHost

HOSTILE = "\x1b[31mred\nrun-1  faked"


def call(host: DisposableHost, *arguments: str) -> Done:
    done = host.run([TOOL, "list", *arguments], check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def rows(host: DisposableHost) -> dict[str, dict[str, Any]]:
    done = call(host, "--json")
    assert done.status == 0, done.message
    return {row["machine"]: row for row in json.loads(done.out)}


def test_nothing_runs(overlay_host: DisposableHost) -> None:
    assert call(overlay_host)[:2] == (0, b"no machines: no job runs\n")
    assert rows(overlay_host) == {}


def test_what_a_machine_takes(host: DisposableHost) -> None:
    began = time.time()
    with Job(host, payload=payload(8801), job_id="8801") as job:
        job.prepare(None)
        job.output("head -c 30M /dev/urandom > /root/file; SECONDS=0; while [ $SECONDS -lt 2 ]; do :; done")
        host.run(["sync"])
        row = rows(host)[job.machine]
        assert (row["job"], row["project"], row["image"], row["state"]) == ("8801", "7", "bookworm", "running")
        assert row["server"] == "gitlab.example.com"
        assert began - 2 <= row["since"] <= time.time() + 1
        assert 0.5 < row["cpu_seconds"] < 60
        assert 30 << 20 <= row["disk_bytes"] < 60 << 20
        if row["memory_bytes"] is not None:
            assert 1 << 20 < row["memory_bytes"] <= row["memory_peak_bytes"]
        lines = call(host).out.decode().splitlines()
        assert lines[0].split()[:3] == ["MACHINE", "JOB", "PROJECT"]
        assert lines[1].split()[:4] == ["run-8801", "8801", "7", "bookworm"]
        assert "t0k3n" not in json.dumps(row)
    assert job.machine not in rows(host)


def test_memory_is_told_where_limits_act(overlay_host: DisposableHost) -> None:
    with Job(overlay_host) as job:
        job.prepare()
        row = rows(overlay_host)[job.machine]
        assert row["memory_bytes"] > 1 << 20
        assert row["memory_peak_bytes"] >= row["memory_bytes"]


def test_disk_of_a_machine_in_memory(overlay_host: DisposableHost) -> None:
    with Job(overlay_host, settings='backend = "tmpfs"\ntmpfs_size = "200M"') as job:
        job.prepare()
        job.output("head -c 10M /dev/urandom > /root/file")
        assert 10 << 20 <= rows(overlay_host)[job.machine]["disk_bytes"] < 20 << 20


def test_states(overlay_host: DisposableHost) -> None:
    host = overlay_host
    with Job(host) as job:
        slow = host.popen(
            ["sh", "-c", "exec 9>/run/nspawn-runner/$1.lock; flock 9; sleep 60", "sh", job.machine],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            job_record = {"state": "starting"}
            with Job(host) as other:
                other.prepare()
                job_record = {**other.record(), **job_record, "machine": job.machine, "layer": "/nowhere"}
                record = host.path(f"/run/nspawn-runner/{job.machine}.json")
                record.write_text(json.dumps(job_record))
                wait_until(lambda: rows(host)[job.machine]["state"] == "booting")
                record.write_text(json.dumps({**job_record, "state": "stopping"}))
                assert rows(host)[job.machine]["state"] == "stopping"
        finally:
            os.killpg(slow.pid, signal.SIGKILL)
            slow.wait()
        host.run(["pkill", "--full", "--exact", "sleep 60"], check=False)
        wait_until(lambda: rows(host)[job.machine]["state"] == "abandoned")
        assert f"{job.machine} is abandoned; remove it: nspawn-runner gc" in call(host).out.decode()
    assert job.machine not in rows(host)


def test_a_machine_that_ended_by_itself(overlay_host: DisposableHost) -> None:
    with Job(overlay_host) as job:
        job.prepare()
        job.script("systemctl poweroff")
        wait_until(lambda: rows(overlay_host)[job.machine]["state"] == "ended")


def test_an_unreadable_record_is_shown_with_what_to_do(overlay_host: DisposableHost) -> None:
    record = overlay_host.path("/run/nspawn-runner/run-8899.json")
    record.parent.mkdir(exist_ok=True)
    record.write_text("{")
    try:
        assert rows(overlay_host)["run-8899"]["state"] == "unreadable"
        said = call(overlay_host)
        assert said.status == 0
        assert "run-8899 is unreadable; remove it: nspawn-runner gc" in said.out.decode()
        overlay_host.run([TOOL, "cleanup", "--id", "8899"])
        assert "run-8899" not in rows(overlay_host)
    finally:
        record.unlink(missing_ok=True)


def test_hostile_text_stays_on_its_line(overlay_host: DisposableHost) -> None:
    with Job(overlay_host) as job:
        job.prepare()
        record = {**job.record(), "project": HOSTILE, "state": HOSTILE}
        overlay_host.path(f"/run/nspawn-runner/{job.machine}.json").write_text(json.dumps(record))
        out = call(overlay_host).out.decode()
        assert "\x1b" not in out
        assert len(out.splitlines()) == 2


def test_while_machines_come_and_go(overlay_host: DisposableHost) -> None:
    script = f"for i in 1 2 3 4 5; do {TOOL} prepare --id 87$1$i bookworm && {TOOL} cleanup --id 87$1$i; done"
    workers = [
        overlay_host.popen(["sh", "-c", script, "sh", number], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for number in "12"
    ]
    seen = set()
    while any(worker.poll() is None for worker in workers):
        done = call(overlay_host, "--json")
        assert (done.status, done.err) == (0, b"")
        seen |= {row["state"] for row in json.loads(done.out)}
    assert [worker.returncode for worker in workers] == [0, 0]
    assert "booting" in seen
    assert seen <= {"booting", "running", "stopping"}


def test_watch_refreshes_a_terminal_until_interrupted(overlay_host: DisposableHost) -> None:
    ours, theirs = pty.openpty()
    with overlay_host.popen([TOOL, "list", "--watch"], stdin=theirs, stdout=theirs, stderr=theirs) as watch:
        os.close(theirs)
        shown = b""
        while shown.count(b"no machines") < 2:
            shown += os.read(ours, 4096)
        os.killpg(watch.pid, signal.SIGINT)
        assert watch.wait(10) == 130
    os.close(ours)
    assert b"Traceback" not in shown


@pytest.mark.parametrize("arguments", [["--watch"], ["--watch", "--json"]])
def test_watch_is_for_a_terminal(overlay_host: DisposableHost, arguments: list[str]) -> None:
    done = call(overlay_host, *arguments)
    assert done.status == 2
    assert "--watch is for a terminal" in done.message
