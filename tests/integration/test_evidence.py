"""What a job's log says of a failure beside the script's output, and of what the job has used."""

import re
import time
from collections.abc import Iterator

import pytest
from backends import ON_ONE
from by_hand import BUILD_FAILURE, SYSTEM_FAILURE, Job, Unchanged, payload, terminate
from disposable_host import STATE_FOLDER, DisposableHost

# The script that fails is not the unit's fault: it fails of itself.
WEB = r"""
cat >/etc/systemd/system/web.service <<'END'
[Service]
ExecStart=/bin/sh -c 'printf "\033[31mport 80\033[0m is \007taken\n"; exit 3'
END
systemctl start web || true
while systemctl is-active --quiet web; do sleep 0.05; done
"""
HANG = """
printf '[Service]\nType=notify\nExecStart=sleep 600\n' >/etc/systemd/system/hang.service
systemctl start --no-block hang
"""


@pytest.fixture
def job(host: DisposableHost) -> Iterator[Job]:
    with Unchanged(host), Job(host) as own:
        own.prepare()
        yield own


@ON_ONE
def test_a_unit_that_failed(job: Job) -> None:
    done = job.script(f"{WEB}\nexit 7")
    assert (done.status, done.code) == (BUILD_FAILURE, "7\n")
    assert "nspawn-runner: failed in the machine: web.service (exit-code, status 3)\n" in done.message
    assert "port 80 is \\x07taken\n" in done.message
    assert all(char.isprintable() or char == "\n" for char in done.message)
    again = job.script("exit 1").message
    assert "failed in the machine before that: web.service\n" in again
    assert "port 80" not in again


@ON_ONE
def test_a_unit_whose_name_systemd_has_escaped(job: Job) -> None:
    """As those of disks and mounts; no unit of ours could hold such a name."""
    unit = r"web-a\x2db.service"
    make = f"printf '[Service]\\nExecStart=sh -c \"echo told; exit 3\"\\n' >'/etc/systemd/system/{unit}'"
    done = job.script(f"{make}\nsystemctl start '{unit}'; sleep 0.3; exit 1")
    assert f"failed in the machine: {unit} (exit-code, status 3)\n" in done.message
    assert "told\n" in done.message


@ON_ONE
def test_nothing_is_said_of_a_success(job: Job) -> None:
    done = job.script(WEB)
    assert (done.status, done.err) == (0, b"")


@ON_ONE
def test_units_that_start_again_and_again_or_never(job: Job) -> None:
    again = "[Service]\nExecStart=false\nRestart=always\nRestartSec=600\n"
    start = f"printf '{again}' >/etc/systemd/system/again.service; systemctl start again"
    done = job.script(f"{start}\n{HANG}\nsleep 1; exit 1")
    assert "failed in the machine: again.service (exit-code, status 1)\n" in done.message
    assert "still waited for in the machine: hang.service\n" in done.message


@ON_ONE
def test_a_cancelled_job_tells_too_and_soon(job: Job) -> None:
    running = job.start(f"{HANG}\necho ready; systemctl start hang")
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    time.sleep(0.5)
    began = time.monotonic()
    terminate(running)
    _, err = running.communicate(timeout=60)
    assert time.monotonic() - began < 12  # the grace is 10 s, and the script ends at once
    assert b"still waited for in the machine: hang.service\n" in err
    assert job.output("echo works") == "works\n"


@ON_ONE
@pytest.mark.parametrize("tool", ["systemctl", "sh", "journalctl"])
def test_a_machine_that_lies(job: Job, tool: str) -> None:
    """Root of the machine may have it say anything, without end."""
    place = {"sh": "/usr/bin/dash"}.get(tool, f"/usr/bin/{tool}")
    lie = "#!/usr/bin/python3\nimport os\nwhile True: os.write(1, b'\\x1b]0;x\\x07 Id=y\\n\\n\\0' * 4096)\n"
    wait = "[Service]\nExecStart=false\n"
    began = time.monotonic()
    done = job.script(  # noqa: S604  (a path)
        f"printf '{wait}' >/etc/systemd/system/no.service; systemctl start no; sleep 0.3\n"
        f"cat >/root/lie <<'END'\n{lie}END\nchmod 755 /root/lie; rm {place}; cp /root/lie {place}; exit 5",
        shell="/bin/bash",
    )
    assert time.monotonic() - began < 30
    assert (done.status, done.code) == (BUILD_FAILURE, "5\n")
    assert len(done.err) < 200_000
    assert all(char.isprintable() or char == "\n" for char in done.message)


@ON_ONE
def test_a_machine_that_is_lost(job: Job) -> None:
    running = job.start("echo a line of the console >/dev/console; sleep 0.5; echo ready; sleep 60")
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    job.host.run(["kill", "-9", job.main_pid()])
    _, err = running.communicate(timeout=60)
    assert running.returncode == SYSTEM_FAILURE
    assert b"the end of the machine's console:\n" in err
    assert b"  a line of the console\n" in err, err.decode()


def test_an_image_that_does_not_come_up(host: DisposableHost) -> None:
    image = f"{STATE_FOLDER}/broken"
    with Unchanged(host):
        copy = ["btrfs", "subvolume", "snapshot"] if host.state == "btrfs" else ["cp", "--archive"]
        host.run([*copy, f"{STATE_FOLDER}/bookworm", image])
        try:
            init = host.path(f"{image}/usr/lib/systemd/systemd")
            init.unlink()
            init.write_text("#!/bin/sh\nprintf 'no such \\033[1mdisk\\033[0m\\n'\nsleep 0.3; exit 1\n")
            init.chmod(0o755)
            with Job(host) as job:
                done = job.call("prepare", "broken")
            assert done.status == SYSTEM_FAILURE
            assert "the end of the machine's console:\n  no such disk\n" in done.message
            assert "did not start from image broken" in done.message.splitlines()[-3]
        finally:
            host.run(["sh", "-c", f"btrfs subvolume delete {image} 2>/dev/null || rm -rf {image}"])


USED = re.compile(
    r"nspawn-runner: took ([0-9.]+) s, CPU time ([0-9.]+) s, memory up to ([0-9]+) MiB(?:, wrote ([0-9]+) MiB)?\n"
)


def used(job: Job) -> tuple[float, ...]:
    """Return what the log's end says: seconds, seconds of CPU time, MiB of memory and written."""
    job.host.path(f"/run/nspawn-runner/{job.machine}/usage-was-told").unlink(missing_ok=True)  # it is told once
    found = USED.fullmatch(job.script("true", "cleanup_file_variables").message)
    assert found
    return tuple(float(text) for text in found.groups(default="-1"))


def test_what_a_job_has_used(job: Job) -> None:
    wall, cpu, memory, written = used(job)
    assert wall < 60
    assert written < 20
    job.output("head -c 50M /dev/zero >/root/zeros; (head -c 30M /dev/zero >/root/more)")
    job.output("python3 -c 'b\"x\" * (150 << 20)'")
    job.output("python3 -c 'import time\nwhile time.process_time() < 1.5: pass'")
    after = used(job)
    assert after[0] > wall + 1.5
    assert cpu + 1.5 <= after[1] < cpu + 6
    assert 150 <= after[2] < 1000
    assert written + 78 <= after[3] < written + 120
    assert memory < after[2]


def test_what_a_job_had_used_before_a_reboot(job: Job) -> None:
    job.output("python3 -c 'import time\nwhile time.process_time() < 1.5: pass'")
    assert "was rebooted under the script" in job.script("systemctl reboot; sleep 60").message
    job.output("true")
    wall, cpu, _, written = used(job)
    assert wall > 1.5
    assert cpu > 1.5
    assert written == -1  # which the host does not know


SETTINGS = 'journal_file = "reports/journal.txt"\n'


@ON_ONE
def test_the_journal_as_an_artifact(host: DisposableHost) -> None:
    with Unchanged(host), Job(host, settings=SETTINGS) as job:
        job.prepare()
        job.output("mkdir -p /builds/p/reports; logger 'said to the journal'")
        env = {"CUSTOM_ENV_CI_PROJECT_DIR": "/builds/p"}
        done = job.script("cat /builds/p/reports/journal.txt", "upload_artifacts_on_failure", env=env)
        assert b"said to the journal" in done.out
        assert (done.status, done.err) == (0, b"")


def test_the_journal_of_another_user_s_job(host: DisposableHost) -> None:
    """It is written with the user's rights, wherever the job says its folder is."""
    with Unchanged(host), Job(host, settings=SETTINGS + 'user = "daemon"\n') as job:
        job.prepare()
        job.output("mkdir -p /builds/p/reports")
        env = {"CUSTOM_ENV_CI_PROJECT_DIR": "/builds/p"}
        done = job.script("stat --format=%U /builds/p/reports/journal.txt", "upload_artifacts_on_success", env=env)
        assert done.out == b"daemon\n"
        places = ("/etc", "/builds/absent", "/builds/p/../../root", "/etc/x\ny$(id)", "relative", "/" + "$" * 70000)
        for folder in places:
            done = job.script("id -un", "upload_artifacts_on_success", env={"CUSTOM_ENV_CI_PROJECT_DIR": folder})
            assert (done.status, done.out) == (0, b"daemon\n")
            assert "WARNING: the machine's journal is not in the project: " in done.message
            assert len(done.message.splitlines()) == 1


@ON_ONE
def test_no_secret_is_in_it(host: DisposableHost) -> None:
    secret = "s3cr3t-0f-the-j0b"  # noqa: S105
    job = Job(host, "7701", payload=payload(7701, variables=[{"key": "TOKEN", "value": secret}]))
    with Unchanged(host), job:
        env = {"CUSTOM_ENV_TOKEN": secret}
        assert job.call("prepare", env=env).status == 0
        done = job.script(f"{WEB}\nTOKEN={secret}; exit 7", env=env)
        end = job.script("true", "cleanup_file_variables", env=env)
        assert b"web.service" in done.err
        assert secret.encode() not in done.err + end.err
