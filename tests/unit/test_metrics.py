"""Metrics: the text format, what is counted, that no count is lost, and that nothing fails by them."""

import json
import multiprocessing
import os
import re
import socket
import stat
from pathlib import Path

import exposition
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nspawn_runner.host import journal
from nspawn_runner.jobs import counters, metrics, prometheus
from nspawn_runner.jobs.counters import Counters, EndedStage
from nspawn_runner.jobs.prometheus import Sample
from nspawn_runner.machines import records
from nspawn_runner.settings import paths
from nspawn_runner.settings.tables import Metrics, Settings

NOW = 1_000_000.0
RUN = EndedStage("run", 0.5, "success", "host 1", "")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    folder = tmp_path / "run"
    monkeypatch.setattr(metrics, "RUN_FOLDER", str(folder))
    monkeypatch.setattr(metrics, "_LOCK", str(folder / "metrics.lock"))
    monkeypatch.setattr(metrics, "_TOLD", str(folder / "metrics.problem"))
    monkeypatch.setattr(records, "RUN_FOLDER", str(folder))
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    (tmp_path / "state").mkdir()
    return Settings(state_folder=str(tmp_path / "state"), metrics=Metrics(str(tmp_path / "x.prom")))


def written(settings: Settings) -> str:
    return Path(settings.metrics.file).read_text()


@given(st.text(), st.text(), st.floats(min_value=0, max_value=1e18))
def test_any_text_can_be_a_label(label: str, help_text: str, number: float) -> None:
    text = prometheus.family("a_metric", "gauge", help_text, [Sample({"image": label}, number)])
    assert exposition.read(text) == {("a_metric", (("image", label),)): number}


def test_a_counter_and_a_histogram() -> None:
    assert prometheus.family("a_total", "counter", "Some.", [Sample({"b": 'c"\\\n'}, 3)]) == (
        '# HELP a_total Some.\n# TYPE a_total counter\na_total{b="c\\"\\\\\\n"} 3\n'
    )
    times = prometheus.histogram({"stage": "run"}, {0.5: 1, 60: 2}, total=1.50049, number=3)
    assert prometheus.family("s", "histogram", "Some.", times).splitlines()[2:] == [
        's_bucket{stage="run",le="0.5"} 1', 's_bucket{stage="run",le="60"} 2', 's_bucket{stage="run",le="+Inf"} 3',
        's_sum{stage="run"} 1.5', 's_count{stage="run"} 3',
    ]  # fmt: skip
    assert prometheus.family("s", "gauge", "Some.", [Sample({}, 1)]).endswith("s 1\n")


@given(st.lists(st.floats(min_value=0, max_value=1e5)))
def test_a_time_is_in_each_bucket_that_is_not_shorter(times: list[float]) -> None:
    known = none()
    for seconds in times:
        counters.count(known, EndedStage("config", 0.01, "success", "", "", seconds), NOW)
        counters.count(known, EndedStage("prepare", 0.01, FAILURE, "host 1", "", seconds), NOW)
        counters.count(known, EndedStage("prepare", 0.01, "success", "host 1", "", seconds), NOW)
    assert known.buckets["queue"] == [sum(time <= most for time in times) for most in counters.BUCKETS]
    assert (known.stages["queue"], known.buckets["config"][0]) == (len(times), len(times))


def none() -> Counters:
    return counters.load("/nonexistent")


def jobs(*ends: tuple[float, str, str, str]) -> tuple[dict[str, int], Counters]:
    """Count stages that end at a time, each with stage, result and outcome; return the jobs that are not 0."""
    known = none()
    for now, stage, result, outcome in ends:
        counters.count(known, EndedStage(stage, 1.0, result, "host 1", outcome), now)
        counters.give_up_waiting(known, now)
    return {name: number for name, number in known.jobs.items() if number}, known


FAILURE = "system failure"
TRIED = (NOW, "prepare", FAILURE, ""), (NOW, "cleanup", "success", "")
STORIES = [
    ([(NOW, "prepare", "success", ""), (NOW, "cleanup", "success", "success")], {"success": 1}),
    ([(NOW, "run", "failed", ""), (NOW, "cleanup", "success", "failed")], {"failed": 1}),
    ([(NOW, "cleanup", "success", "canceled"), (NOW, "cleanup", "success", "")], {"canceled": 1}),
    ([(NOW, "cleanup", FAILURE, "success"), (NOW, "cleanup", "success", "")], {"success": 1}),
    ([(NOW, "prepare", "failed", ""), (NOW, "cleanup", "success", "")], {"failed": 1}),
    ([(NOW, "prepare", "canceled", ""), (NOW, "cleanup", "success", "")], {"canceled": 1}),
    ([(NOW, "config", "failed", ""), (NOW, "cleanup", "success", "")], {"failed": 1}),
    ([*TRIED, *TRIED, *TRIED], {}),
    ([*TRIED, *TRIED, *TRIED, (NOW + 700, "config", "success", "")], {FAILURE: 1}),
    ([*TRIED, (NOW, "config", "success", ""), (NOW, "prepare", "failed", "")], {"failed": 1}),
    ([*TRIED, (NOW, "prepare", "success", ""), (NOW + 9999, "cleanup", "success", "failed")], {"failed": 1}),
    ([*TRIED, (1.0, "run", "success", "")], {FAILURE: 1}),  # the clock was put back
]


@pytest.mark.parametrize(("ends", "expected"), STORIES)
def test_a_job_counts_once(ends: list[tuple[float, str, str, str]], expected: dict[str, int]) -> None:
    found, known = jobs(*ends)
    assert found == expected
    assert sum(known.stages.values()) == len(ends)


BROKEN = [
    "",
    "[]",
    "[" * 5000,
    '{"jobs": [1], "seconds": 3, "stages": {"run": "x"}, "waiting": {"a": null}}',
    '{"jobs": {"success": -1, "failed": NaN, "canceled": Infinity}}',
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_file_starts_anew(settings: Settings, content: str) -> None:
    path = Path(settings.state_folder) / paths.COUNTERS
    path.write_text(content)
    metrics.stage_ended(settings, RUN)
    assert exposition.value(written(settings), "nspawn_runner_stage_seconds_count", stage="run") == 1
    assert exposition.value(written(settings), "nspawn_runner_jobs_total", result="success") == 0
    assert json.loads(path.read_text())["stages"]["run"] == 1


def test_everybody_can_read_it(settings: Settings) -> None:
    before = os.umask(0o077)
    try:
        metrics.stage_ended(settings, RUN)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(settings.metrics.file).st_mode) == 0o644


def test_images(settings: Settings) -> None:
    state = Path(settings.state_folder)
    generation = state / ".generations/web/20250601T101500Z"
    generation.mkdir(parents=True)
    Path(f"{generation}.json").write_text('{"created": 1700000000}')
    (state / "web").symlink_to(generation.relative_to(state))
    os.utime(state / "web", (1700000500, 1700000500), follow_symlinks=False)
    (state / "site").symlink_to("web")
    (state / "broken").symlink_to(".generations/broken/20250601T101500Z")
    (state / "plain").mkdir()
    os.utime(state / "plain", (1600000000, 1600000000))
    metrics.refresh(settings, {"images": 7})
    assert exposition.value(written(settings), "nspawn_runner_disk_bytes", kind="images") == 7
    found = {key: number for key, number in exposition.read(written(settings)).items() if "_image_" in key[0]}
    assert found == {
        ("nspawn_runner_image_created_timestamp_seconds", (("image", "web"),)): 1700000000,
        ("nspawn_runner_image_created_timestamp_seconds", (("image", "plain"),)): 1600000000,
        ("nspawn_runner_image_published_timestamp_seconds", (("image", "web"),)): 1700000500,
    }


def test_a_problem_is_told_once_until_it_is_gone(settings: Settings) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as entries:
        entries.bind(journal.SOCKET)
        entries.setblocking(False)
        missing = settings._replace(metrics=Metrics(f"{settings.state_folder}/none/x.prom"))
        for _ in range(3):
            metrics.stage_ended(missing, RUN)
        told = entries.recv(65536).decode()
        assert "PRIORITY=4\n" in told
        assert missing.metrics.file in told
        with pytest.raises(BlockingIOError):
            entries.recv(65536)
        metrics.stage_ended(settings, RUN)
        assert exposition.value(written(settings), "nspawn_runner_stage_seconds_count", stage="run") == 4
        metrics.stage_ended(missing, RUN)
        assert "x.prom" in entries.recv(65536).decode()


def test_what_killed_processes_left_goes(settings: Settings, tmp_path: Path) -> None:
    left = tmp_path / "x.prom.999999999.new"
    kept = [tmp_path / "x.prom.1.new", tmp_path / "x.prom.old.new", tmp_path / "other.999999999.new"]
    for path in (left, *kept):
        path.touch()
    metrics.refresh(settings, {"images": 7})
    assert not left.exists()
    assert [path for path in kept if not path.exists()] == []


@pytest.mark.starts_processes
def test_stages_that_end_together_all_count(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_LOCK_SECONDS", 60)  # no stage waits that long; on a busy machine one may have to
    context = multiprocessing.get_context("fork")
    ended = EndedStage("cleanup", 0.5, "success", "host 1", "canceled")

    def end_25() -> None:
        for _ in range(25):
            metrics.stage_ended(settings, ended)

    many = [context.Process(target=end_25) for _ in range(8)]
    for process in many:
        process.start()
    for process in many:
        process.join(60)
        assert process.exitcode == 0
    text = written(settings)
    assert exposition.value(text, "nspawn_runner_jobs_total", result="canceled") == 200
    assert exposition.value(text, "nspawn_runner_stage_seconds_sum", stage="cleanup") == 100


MONITORING = Path(__file__).parents[2] / "packaging/monitoring"


@pytest.mark.parametrize("path", sorted(MONITORING.iterdir()), ids=lambda path: path.name)
def test_rules_and_dashboard_name_metrics_that_there_are(settings: Settings, path: Path) -> None:
    metrics.refresh(settings, {})
    there = set(re.findall(r"# TYPE (\w+)", written(settings)))
    named = set(re.findall(r"\b(nspawn_runner_\w+?)(?:_bucket|_sum|_count)?\b(?=\{|\)|\[| [-<>=])", path.read_text()))
    assert named
    assert named <= there
