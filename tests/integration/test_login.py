"""login: a root shell on a terminal in the machine of a running job, its exit status passed on."""

import pytest
from by_hand import TOOL, Job, Unchanged, login
from disposable_host import DisposableHost


def refused(host: DisposableHost, name: str) -> str:
    done = host.run([TOOL, "login", name], check=False)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    return done.stderr.decode()


@pytest.mark.parametrize("host_name", ["overlay_host", "trixie_host"])
def test_a_shell_and_its_status(request: pytest.FixtureRequest, host_name: str) -> None:
    host: DisposableHost = request.getfixturevalue(host_name)
    with Unchanged(host), Job(host) as job:
        job.prepare()
        status, shown = login(host, job.id, b"echo i=$(id -un) h=$(hostname) d=$PWD t=; tty; exit 7\n")
        assert status == 7, shown
        assert f"i=root h={job.machine} d=/root" in shown
        assert "/dev/pts/" in shown
        assert login(host, job.machine, b"exit\n")[0] == 0
        assert job.output("echo works") == "works\n"


def test_a_machine_that_goes_under_it(overlay_host: DisposableHost) -> None:
    with Unchanged(overlay_host), Job(overlay_host) as job:
        job.prepare()
        status, shown = login(overlay_host, job.id, b"systemctl poweroff --force --force\n")
        assert status == 255, shown
        assert f"the machine {job.machine} has ended" in shown


def test_what_cannot_be(overlay_host: DisposableHost) -> None:
    assert "job 77 has no machine" in refused(overlay_host, "77")
    assert "job ../x\\x1b has no machine" in refused(overlay_host, "../x\x1b")
    with Job(overlay_host) as job:
        job.prepare()
        assert "login is for a terminal" in refused(overlay_host, job.id)
        assert job.machine in refused(overlay_host, "78")
