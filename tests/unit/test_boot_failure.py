"""Why a machine did not come up, from what its console said."""

from nspawn_runner.nspawn.options import boot_failure


def test_units_that_hang_are_named_once_each() -> None:
    console = [
        "[  OK  ] Reached target basic.target - Basic System.",
        "\x1b[K[ \x1b[0;31m*\x1b[0;1;31m*\x1b[0m ] Job slow.service/start running (3s / no limit)",
        "\x1bM\r\x1b[K[\x1b[0;31m*  \x1b[0m] Job slow.service/start running (4s / no limit)",
        "[ *  ] Job other.service/start running (4s / 1min 30s)",
    ]
    assert boot_failure(console) == "its start waits for slow.service, other.service"


def test_the_last_lines_that_tell_something() -> None:
    console = ["one", "two", "[  OK  ] Started x.service.", "", "\x1b[1mFailed to mount proc\x1b[0m", "three"]
    assert boot_failure(console) == "two / Failed to mount proc / three"


def test_silence() -> None:
    assert boot_failure(["[  OK  ] Started x.service.", " "]) == ""


def test_a_systemd_that_wants_other_cgroups() -> None:
    console = [
        "Detected cgroup v1 hierarchy at /sys/fs/cgroup/, which is no longer supported by current version of systemd.",
        "  systemd.unified_cgroup_hierarchy=0",
        "[\x1b[0;1;31m!!!!!!\x1b[0m] Detected unsupported legacy cgroup hierarchy, refusing execution.",
        "Exiting PID 1...",
    ]
    assert "needs cgroup version 2" in boot_failure(console)
