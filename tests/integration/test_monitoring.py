"""The alert rules and the dashboard in packaging/monitoring work with a real Prometheus and with real jobs."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from by_hand import BUILD_FAILURE, SYSTEM_FAILURE, Job, payload, wait_until
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost

FOLDER = "/root/prometheus"
FILE = f"{FOLDER}/www/metrics"
SETTINGS = f'[metrics]\nfile = "{FILE}"\n'
RULES = CHECKOUT / "packaging/monitoring/nspawn-runner.rules.yaml"
BOARD = CHECKOUT / "packaging/monitoring/nspawn-runner.dashboard.json"
CONFIG = f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{FOLDER}/rules.yaml]
scrape_configs:
  - job_name: hosts
    static_configs: [{{targets: ["127.0.0.1:9213"]}}]
"""
# Of each alert: how the metrics go wrong, minute by minute.
WRONG = {
    "NspawnRunnerSystemFailures": ['nspawn_runner_jobs_total{instance="a",result="system_failure"} 0+1x240'],
    "NspawnRunnerPreparesSlowly": [
        'nspawn_runner_stage_seconds_bucket{instance="a",stage="prepare",le="10"} 0x240',
        'nspawn_runner_stage_seconds_bucket{instance="a",stage="prepare",le="30"} 0+9x240',
        'nspawn_runner_stage_seconds_bucket{instance="a",stage="prepare",le="+Inf"} 0+9x240',
    ],
    "NspawnRunnerJobsQueue": [
        'nspawn_runner_queue_seconds_bucket{instance="a",le="300"} 0x240',
        'nspawn_runner_queue_seconds_bucket{instance="a",le="900"} 0+9x240',
        'nspawn_runner_queue_seconds_bucket{instance="a",le="+Inf"} 0+9x240',
    ],
    "NspawnRunnerMachineLeft": ['nspawn_runner_machines{instance="a",state="stopping",of="job"} 1x240'],
    "NspawnRunnerImageOld": ['nspawn_runner_image_published_timestamp_seconds{instance="a",image="x"} -2700000x240'],
    "NspawnRunnerMetricsOld": ['node_textfile_mtime_seconds{instance="a",file="/x/nspawn-runner.prom"} -9000x240'],
}
RIGHT = [
    'nspawn_runner_jobs_total{instance="a",result="success"} 0+9x240',
    'nspawn_runner_jobs_total{instance="a",result="system_failure"} 0x240',
    'nspawn_runner_stage_seconds_bucket{instance="a",stage="prepare",le="10"} 0+9x240',
    'nspawn_runner_stage_seconds_bucket{instance="a",stage="prepare",le="+Inf"} 0+9x240',
    'nspawn_runner_queue_seconds_bucket{instance="a",le="300"} 0+9x240',
    'nspawn_runner_queue_seconds_bucket{instance="a",le="+Inf"} 0+9x240',
    'nspawn_runner_machines{instance="a",state="running",of="job"} 3x240',
    'nspawn_runner_image_published_timestamp_seconds{instance="a",image="x"} 0+60x240',
    'node_textfile_mtime_seconds{instance="a",file="/x/nspawn-runner.prom"} 0+60x240',
]


@pytest.fixture(scope="module")
def host(overlay_host: DisposableHost) -> Iterator[DisposableHost]:
    """A host with the programs of Debian's prometheus, which is not installed."""
    overlay_host.run(["mkdir", "--parents", f"{FOLDER}/www"])
    get = "apt-get update -qq; apt-get download -qq prometheus; dpkg-deb --extract prometheus_*.deb ."
    overlay_host.run(["sh", "-ec", get], cwd=FOLDER, timeout=300)
    overlay_host.path(f"{FOLDER}/rules.yaml").write_bytes(RULES.read_bytes())
    overlay_host.path(f"{FOLDER}/prometheus.yaml").write_text(CONFIG)
    yield overlay_host
    overlay_host.run(["rm", "-rf", FOLDER, f"{STATE_FOLDER}/.metrics.json"])


def promtool(host: DisposableHost, *words: str) -> str:
    done = host.run([f"{FOLDER}/usr/bin/promtool", *words], check=False, cwd=FOLDER)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.soak
def test_each_alert_comes_when_it_should_and_only_then(host: DisposableHost) -> None:
    assert f"{len(WRONG)} rules found" in promtool(host, "check", "rules", "rules.yaml")
    tests: list[dict[str, Any]] = []
    for wrong in [*WRONG, None]:
        asked = []
        for alert in WRONG:
            labels = {"instance": "a", "severity": severity(alert)}
            if alert == "NspawnRunnerImageOld":
                labels["image"] = "x"
            if alert == "NspawnRunnerMetricsOld":
                labels["file"] = "/x/nspawn-runner.prom"
            asked.append({"eval_time": "4h", "alertname": alert, "exp_alerts": [{"exp_labels": labels}]})
            if alert != wrong:
                asked[-1]["exp_alerts"] = []
        series = [each.rpartition(" ") for each in (WRONG[wrong] if wrong else RIGHT)]
        given = [{"series": name, "values": values} for name, _, values in series]
        tests.append({"interval": "1m", "input_series": given, "alert_rule_test": asked})
    # What an alert says is for people; whether it comes is asked.
    plain = re.sub(r"(?m)^        annotations:\n(?:          .*\n)+", "", RULES.read_text())
    host.path(f"{FOLDER}/plain.yaml").write_text(plain)
    file = {"rule_files": ["plain.yaml"], "evaluation_interval": "1m", "tests": tests}
    host.path(f"{FOLDER}/tests.yaml").write_text(json.dumps(file))
    assert "SUCCESS" in promtool(host, "test", "rules", "tests.yaml")


def severity(alert: str) -> str:
    found = re.search(rf"alert: {alert}\n(?:.*\n)*?\s+labels: {{severity: (\w+)}}", RULES.read_text())
    assert found
    return found[1]


@pytest.mark.soak
def test_the_dashboard_shows_real_jobs(host: DisposableHost) -> None:
    """Each of its queries answers, asked of a Prometheus that read the metrics before and after jobs."""
    serve = ["python3", "-m", "http.server", "--directory", f"{FOLDER}/www", "9213"]
    run = [f"{FOLDER}/usr/bin/prometheus", "--config.file=prometheus.yaml", "--storage.tsdb.path=data",
           "--web.listen-address=127.0.0.1:9214"]  # fmt: skip
    with host.popen(serve) as server, host.popen(run, cwd=FOLDER) as prometheus:
        try:
            wait_until(lambda: host.run(["curl", "-sf", "127.0.0.1:9214/-/ready"], check=False).returncode == 0)
            for _ in range(3):
                _jobs(host)
                time.sleep(2)
            for title, query in queries():
                assert asked(host, query), f"{title}: {query}"
            firing = {row["metric"]["alertname"] for row in asked(host, "ALERTS")}
            assert "NspawnRunnerSystemFailures" in firing
        finally:
            prometheus.kill()
            server.kill()


def _jobs(host: DisposableHost) -> None:
    """Run a job that succeeds, one that fails, and one whose image cannot boot; a gc that counts the disk."""
    for script, status in (("true", 0), ("false", BUILD_FAILURE)):
        number = Job(host).id
        info = {"project_id": 7, "time_in_queue_seconds": 3}
        with Job(host, number, payload=payload(int(number), job_info=info), settings=SETTINGS) as job:
            assert job.call("config").status == 0
            job.prepare(None)
            assert job.script(script).status == status
    # It counts once nobody has tried it again for ten minutes: an earlier host's count stands in for that.
    path = host.path(f"{STATE_FOLDER}/.metrics.json")
    known = json.loads(path.read_text())
    known["jobs"]["system failure"] += 1
    path.write_text(json.dumps(known))
    # Of a plain folder it is not known since when it is there.
    host.run(["mkdir", "--parents", f"{STATE_FOLDER}/.generations/web/20250601T101500Z"])
    host.run(["ln", "-sfn", ".generations/web/20250601T101500Z", f"{STATE_FOLDER}/web"])
    gc = Job(host, settings=SETTINGS)
    gc.by_id = []
    assert gc.call("gc").status == 0, SYSTEM_FAILURE
    host.run(["rm", "-rf", f"{STATE_FOLDER}/web", f"{STATE_FOLDER}/.generations/web"])


def queries() -> Iterator[tuple[str, str]]:
    """Yield the title and each query of the dashboard's panels, for all hosts and a rate over what was seen."""
    for panel in json.loads(BOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$instance", ".*")


def asked(host: DisposableHost, query: str) -> list[dict[str, Any]]:
    argv = ["curl", "-s", "--get", "127.0.0.1:9214/api/v1/query", "--data-urlencode", f"query={query}"]
    answer = json.loads(host.run(argv).stdout)
    assert answer["status"] == "success", answer
    rows: list[dict[str, Any]] = answer["data"]["result"]
    return rows
