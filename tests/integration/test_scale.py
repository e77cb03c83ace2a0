"""Many machines, at once and one after the other: all of them work, and what they took is given back.

script/test --soak runs it in full: 30 at once, three times; 500 jobs one after the other.
"""

import time
from itertools import pairwise

import pytest
from by_hand import BUILD_FAILURE, Job, Unchanged, lines_of, payload, together, wait_until, write
from disposable_host import STATE_FOLDER, DisposableHost

COUNTS = f"""
echo mounts $(wc -l < /proc/self/mountinfo)
echo units $(systemctl list-units --all --no-legend | wc -l)
echo cgroups $(find /sys/fs/cgroup/systemd /sys/fs/cgroup -type d 2>/dev/null | wc -l)
echo folders of /run $(find /run -xdev ! -path '/run/log/*' -type d | wc -l)
echo files of /run $(find /run -xdev ! -path '/run/log/*' ! -path '/run/systemd/journal/streams/*' -type f | wc -l)
echo files of the state $(find {STATE_FOLDER} ! -path '{STATE_FOLDER}/bookworm/*' | wc -l)
echo inodes $(df --output=iused {STATE_FOLDER} | tail -n 1)
echo subvolumes $(btrfs subvolume list {STATE_FOLDER} 2>/dev/null | wc -l)
echo loop devices $(losetup --list --noheadings --output BACK-FILE | grep -c '/run-58[0-9]*[.]disk')
echo links $(ls /sys/class/net | wc -l)
echo neighbours $(ip neighbour show nud permanent | wc -l)
echo rules $(nft --terse list ruleset | wc -l)
"""
MEMORY = r"""
for name in systemd dbus-daemon systemd-machine systemd-journal systemd-logind; do
    pid=$(pgrep --exact --oldest --nslist pid --ns 1 $name)
    echo $name $(sed -n 's/^RssAnon:[^0-9]*\([0-9]*\).*/\1/p' /proc/$pid/status)
done
"""
# A daemon's heap grows at first; what is lost with each job would be more than this in the end.
GROWTH_KIB, GROWTH_KIB_PER_JOB = 1024, 2


def test_many_at_once(small_host: DisposableHost, soak: bool) -> None:
    host = small_host
    count, rounds = (30, 3) if soak else (8, 1)
    script = write(host, "hostname; ping -c 1 -w 20 -q 10.213.0.1 > /dev/null && echo reached; exit 7")
    with Unchanged(host):
        for _ in range(rounds):
            jobs = [Job(host) for _ in range(count)]
            times = [time.monotonic()]
            prepared = together(host, [(job, job.argv("prepare", "bookworm")) for job in jobs])
            times.append(time.monotonic())
            ran = together(host, [(job, job.argv("run", script, "build_script")) for job in jobs])
            times.append(time.monotonic())
            removed = together(host, [(job, job.argv("cleanup")) for job in jobs])
            times.append(time.monotonic())
            spans = [f"{end - begin:.1f} s" for begin, end in pairwise(times)]
            print(f"{count} at once on {host.state}: prepare {spans[0]}, run {spans[1]}, cleanup {spans[2]}")
            assert [done for done in prepared if done.status != 0 or done.err] == []
            expected = [(BUILD_FAILURE, f"{job.machine}\nreached\n".encode(), b"") for job in jobs]
            assert [done[:3] for done in ran] == expected
            assert [job.code() for job in jobs] == ["7\n"] * count
            assert [done[:3] for done in removed] == [(0, b"", b"")] * count


def test_one_after_the_other(small_host: DisposableHost, soak: bool) -> None:
    """Plain ones, ones whose disk is limited, and ones whose machine is killed."""
    host, jobs = small_host, 500 if soak else 15
    for number in range(6):
        one_job(host, 580000 + number)
    time.sleep(5)  # a loop device goes a moment after its mount
    before, memory_before = counts(host), memory(host)
    began = time.monotonic()
    for number in range(jobs):
        one_job(host, 581000 + number)
    seconds = time.monotonic() - began
    try:
        wait_until(lambda: counts(host) == before, seconds=15)
    except TimeoutError:
        pytest.fail(f"before: {before}\nafter: {counts(host)}")
    grown = {name: after - memory_before[name] for name, after in memory(host).items()}
    print(f"{jobs} jobs on {host.state} in {seconds:.0f} s; KiB before: {memory_before}, grown by: {grown}")
    assert {name: kib for name, kib in grown.items() if kib > GROWTH_KIB + GROWTH_KIB_PER_JOB * jobs} == {}


def one_job(host: DisposableHost, job_id: int) -> None:
    variables = [{"key": "NSPAWN_DISK_MAX", "value": "64M"}] if job_id % 3 == 1 else []
    with Job(host, str(job_id), payload=payload(job_id, variables=variables)) as job:
        job.prepare(None)
        assert job.output("echo content > /root/file; hostname") == f"{job.machine}\n"
        if job_id % 3 == 2:
            host.run(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", job.unit])
        job.cleanup()


def counts(host: DisposableHost) -> list[str]:
    return lines_of(host, COUNTS)


def memory(host: DisposableHost) -> dict[str, int]:
    return {name: int(kib) for name, kib in (line.split() for line in lines_of(host, MEMORY))}
