"""Limits: what the settings may say, what becomes of it, and what a job may wish."""

import os
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nspawn_runner.errors import HostError, JobError
from nspawn_runner.gitlab import installed_runner
from nspawn_runner.gitlab.job import from_environment, from_payload
from nspawn_runner.settings import amounts
from nspawn_runner.settings.amounts import JOB_VARIABLES, NUMBERS, lowered, resolved, shown
from nspawn_runner.settings.quantities import seconds, shown_bytes
from nspawn_runner.settings.schema import BY_KEY
from nspawn_runner.settings.tables import UNLIMITED, Amounts, Limits

GOOD = [
    ("concurrent", 4), ("cpus", 1), ("cpus", 0.5), ("cpus", "auto"), ("cpus", "infinity"), ("allowed_cpus", ""),
    ("allowed_cpus", "0-3,6"), ("memory_max", "64M"), ("memory_max", "auto"), ("memory_high", "50%"),
    ("memory_swap_max", "0"), ("disk_max", "auto"), ("disk_max", "10G"), ("open_files", 0), ("open_files", 1024),
    ("locked_memory", "64K"), ("locked_memory", "infinity"), ("locked_memory", "50%"),
    ("io_weight", 10000), ("tasks_max", 64), ("runtime_max_seconds", 60),
]  # fmt: skip
BAD = [
    ("concurrent", -1), ("concurrent", "4"), ("cpus", 0), ("cpus", 0.01), ("cpus", True), ("cpus", float("nan")),
    ("cpus", float("inf")), ("cpus", "2"), ("allowed_cpus", "3-0"), ("allowed_cpus", "a"), ("allowed_cpus", "1,"),
    ("allowed_cpus", 1), ("memory_max", "63M"), ("memory_max", "0%"), ("memory_max", 4), ("memory_high", "auto"),
    ("memory_swap_max", "-1"), ("disk_max", "50%"), ("disk_max", ""), ("locked_memory", "auto"),
    ("locked_memory", 8), ("open_files", 7), ("io_weight", 0),
    ("tasks_max", 63), ("tasks_max", 10**9), ("runtime_max_seconds", 59.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "meant"),
    [("90", 90), ("0s", 0), ("10min", 600), ("2h", 7200), ("1d", 86400), ("4w", 4 * 604800)]
    + [(text, None) for text in ("", "s", "-1", "1 week", "1.5h", "1m", "1H", "²", "9" * 10, 4)],
)
def test_times(text: object, meant: int | None) -> None:
    assert seconds(text) == meant


def problem(key: str, value: Any) -> str:
    """Say what is wrong with a value for the key of [limits]."""
    check = BY_KEY[f"limits.{key}"].check
    assert check
    return check(value)


@pytest.mark.parametrize(("key", "value"), GOOD)
def test_what_the_settings_may_say(key: str, value: Any) -> None:
    assert problem(key, value) == ""


@pytest.mark.parametrize(("key", "value"), BAD)
def test_what_they_may_not(key: str, value: Any) -> None:
    assert problem(key, value).startswith("must be ")


def test_defaults_are_good() -> None:
    assert [key for key, value in Limits()._asdict().items() if problem(key, value)] == []


def test_each_limit_becomes_an_amount() -> None:
    assert ("concurrent", *Amounts._fields) == Limits._fields
    assert {*NUMBERS, "allowed_cpus"} == {*Amounts._fields}


def test_auto_and_shares_become_numbers(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    disk = os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    given = Limits(concurrent=4, cpus="auto", memory_max="auto", disk_max="auto", memory_high="10%")
    found = resolved(given, state_folder=str(tmp_path))
    assert (found.memory_max, found.disk_max) == (memory // 4, disk // 4)
    assert (found.cpus, found.memory_high) == (round((os.cpu_count() or 1) / 4, 2), memory // 10)
    assert resolved(Limits(memory_max="2G"), state_folder="/nonesuch").memory_max == 2 << 30


OWN = resolved(Limits(memory_max="4G", cpus=2, tasks_max=500), state_folder="/nonesuch")


def test_a_job_may_lower_its_limits() -> None:
    wishes = {"NSPAWN_MEMORY_MAX": "512M", "NSPAWN_CPUS": "1.25", "NSPAWN_DISK_MAX": "10G", "NSPAWN_OPEN_FILES": "2000"}
    changed: dict[str, Any] = {"memory_max": 512 << 20, "cpus": 1.25, "disk_max": 10 << 30}
    changed["open_files"] = 2000
    assert lowered(OWN, wishes, {}) == OWN._replace(**changed)


def test_a_job_may_raise_one_as_far_as_its_ceiling_goes() -> None:
    assert lowered(OWN, {"NSPAWN_CPUS": "8"}, {"cpus": 8}).cpus == 8
    # a ceiling below the limit takes nothing away
    assert lowered(OWN, {"NSPAWN_CPUS": "2"}, {"cpus": 1}).cpus == 2
    with pytest.raises(JobError, match=r"NSPAWN_CPUS asks for 8\.01 CPUs, but this job may have at most 8 CPUs"):
        lowered(OWN, {"NSPAWN_CPUS": "8.01"}, {"cpus": 8})


@pytest.mark.parametrize(
    ("variable", "text", "most"),
    [
        ("NSPAWN_MEMORY_MAX", "5G", "5 GiB, but this job may have at most 4 GiB"),
        ("NSPAWN_TASKS_MAX", "501", "501, but this job may have at most 500"),
        ("NSPAWN_OPEN_FILES", "600000", "600000, but this job may have at most 524288"),
        ("NSPAWN_RUNTIME_MAX_SECONDS", "86401", "86401 seconds, but this job may have at most 86400 seconds"),
    ],
)
def test_more_is_refused_with_the_ceiling(variable: str, text: str, most: str) -> None:
    with pytest.raises(JobError) as caught:
        lowered(OWN, {variable: text}, {})
    assert str(caught.value) == f"{variable} asks for {most}"
    assert f"limits.{JOB_VARIABLES[variable]}" in caught.value.facts


HOSTILE = ["", " ", "infinity", "auto", "50%", "-1", "1e9", "١", "4 G", "4G\n", "0x10", "nan", "$X", "1.2.3",
           "9" * 5000, "1.", ".5", "1.001", "4g", "4GiB", "\0", "00000000000000000000"]  # fmt: skip


@pytest.mark.parametrize("variable", JOB_VARIABLES)
@pytest.mark.parametrize("text", HOSTILE)
def test_anything_else_is_refused_and_not_repeated(variable: str, text: str) -> None:
    with pytest.raises(JobError, match=f"^{variable} must be "):
        lowered(OWN, {variable: text}, dict.fromkeys(NUMBERS, UNLIMITED))


@given(st.sampled_from(sorted(JOB_VARIABLES)), st.text(string.digits + ".KMGT%-+ e", max_size=20) | st.text())
def test_a_wish_never_gets_above_the_limit_nor_below_the_least(variable: str, text: str) -> None:
    key = JOB_VARIABLES[variable]
    try:
        found = lowered(OWN, {variable: text}, {})
    except JobError:
        return
    # 0 open files are what systemd gives: 524288 for a process that asks
    assert NUMBERS[key].least <= getattr(found, key) <= (getattr(OWN, key) or 524288)
    assert found._replace(**{key: getattr(OWN, key)}) == OWN


@given(st.sampled_from(sorted(JOB_VARIABLES)), st.text(string.digits + ".KMGT", max_size=20) | st.text())
def test_any_text_is_refused_or_fits_where_nothing_is_limited(variable: str, text: str) -> None:
    """The numbers go to systemd, the kernel and mkfs: they take 63 bits, and no more open files than fs.nr_open."""
    unlimited = dict.fromkeys(NUMBERS, UNLIMITED)
    try:
        found = lowered(OWN, {variable: text}, unlimited)
    except JobError:
        return
    assert NUMBERS[JOB_VARIABLES[variable]].least <= getattr(found, JOB_VARIABLES[variable]) < 1 << 63
    assert found.open_files <= int(Path("/proc/sys/fs/nr_open").read_text())


def test_more_than_the_disk_is_no_limit_of_it(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    whole = disk.f_blocks * disk.f_frsize
    for size, found in ((whole, UNLIMITED), (1 << 60, UNLIMITED), (whole - 1, whole - 1)):
        assert amounts.within_disk(Amounts(disk_max=size), state_folder=str(tmp_path)).disk_max == found
        assert resolved(Limits(disk_max=str(size)), state_folder=str(tmp_path)).disk_max == found


def test_numbers_as_people_read_them() -> None:
    sizes = [(5, "5 bytes"), (2048, "2 KiB"), (300 << 20, "300 MiB"), (3 << 29, "1.5 GiB"), (2 << 40, "2048 GiB")]
    assert [shown_bytes(value) for value, _ in sizes] == [text for _, text in sizes]
    assert [shown("cpus", 1), shown("cpus", 1.5), shown("disk_max", UNLIMITED)] == ["1 CPU", "1.5 CPUs", "no limit"]


def test_wishes_come_from_the_payload_the_last_one_counts() -> None:
    variables = [
        {"key": "NSPAWN_CPUS", "value": "1"},
        {"key": "NSPAWN_CPUS", "value": "2"},
        {"key": "NSPAWN_TASKS_MAX", "value": ""},
        {"key": "NSPAWN_OTHER", "value": "x"},
        {"key": "NSPAWN_DISK_MAX", "value": 5},
        {"key": ["NSPAWN_CPUS"], "value": "3"},
        "NSPAWN_CPUS",
    ]
    asked = from_payload({"id": 1, "variables": variables}, "payload").limits_asked
    assert asked == {"NSPAWN_CPUS": "2", "NSPAWN_OTHER": "x"}
    environ = {"CUSTOM_ENV_CI_JOB_ID": "1", "CUSTOM_ENV_NSPAWN_CPUS": "2", "NSPAWN_TASKS_MAX": "70"}
    assert from_environment(environ).limits_asked == {"NSPAWN_CPUS": "2"}
    assert from_environment(environ, job_id="1").limits_asked == {}
    assert lowered(OWN, {"NSPAWN_OTHER": "x"}, {}) == OWN  # not of us


def test_concurrent_comes_from_the_runner(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    environ = {"CONFIG_FILE": str(file)}
    assert installed_runner.concurrent(environ) == 1
    file.write_text('concurrent = 7\n[[runners]]\ntoken = "x"\n')
    assert installed_runner.concurrent(environ) == 7
    file.write_text("check_interval = 0\n")
    assert installed_runner.concurrent(environ) == 1
    for content in ("concurrent = 'glrt-secret'\n", "token = glrt-secret\n", "concurrent = 0\n"):
        file.write_text(content)
        with pytest.raises(HostError) as caught:
            installed_runner.concurrent(environ)
        assert str(file) in str(caught.value)
        assert "secret" not in "".join(caught.value.lines())
