"""config, prepare, run, cleanup called by hand: the main path on every host and backend, images, retries, the runner's
binary and the cache."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from backends import ON_ONE
from by_hand import BUILD_FAILURE, SYSTEM_FAILURE, TOOL, Done, Job, Unchanged, payload, write
from disposable_host import STATE_FOLDER, DisposableHost

SYSTEMD_STATE = 'test "$(cat /proc/1/comm)" = systemd; systemctl is-system-running --wait'
TMPFS = 'backend = "tmpfs"\ntmpfs_size = "64M"\n'


@pytest.fixture(params=["overlay_host", "btrfs_host", "trixie_host"])
def any_host(request: pytest.FixtureRequest) -> DisposableHost:
    found: DisposableHost = request.getfixturevalue(request.param)
    return found


def main_path(job: Job) -> None:
    line = job.prepare().out.decode()
    assert line.startswith(f"image bookworm, machine {job.machine}, ready in ")
    assert line.endswith(" s\n")
    assert line.count("\n") == 1
    assert job.script("echo kept > /root/file; echo out; echo err >&2") == Done(0, b"out\n", b"err\n", None)
    assert job.script("cat /root/file; hostname; exit 3", "after_script") == Done(
        BUILD_FAILURE, f"kept\n{job.machine}\n".encode(), b"", "3\n"
    )
    assert job.output(SYSTEMD_STATE) == "running\n"
    assert job.output("systemctl --failed --no-legend") == ""
    uid_map = job.output("cat /proc/self/uid_map").split()
    assert uid_map[0] == "0"
    assert int(uid_map[1]) >= 0x70000000
    assert uid_map[2] == "65536"
    job.cleanup()


def test_main_path(any_host: DisposableHost) -> None:
    with Unchanged(any_host), Job(any_host) as job:
        main_path(job)


def test_main_path_on_tmpfs(host: DisposableHost) -> None:
    with Unchanged(host), Job(host, settings=TMPFS) as job:
        job.prepare()
        assert job.record()["backend"] == "tmpfs"
        full = job.script("dd if=/dev/zero of=/root/zeros bs=1M count=200 2>&1")
        assert b"No space left on device" in full.out
        main_path(job)


def test_nothing_reaches_the_image(host: DisposableHost) -> None:
    with Job(host) as job:
        job.prepare()
        job.output("touch /new-file /usr/bin/new-file; rm /usr/bin/git; echo changed > /etc/hostname")
        image = host.path(f"{STATE_FOLDER}/bookworm")
        assert not (image / "new-file").exists()
        assert not (image / "usr/bin/new-file").exists()
        assert (image / "usr/bin/git").exists()
        assert job.script("ls /usr/bin/git").status == BUILD_FAILURE


def test_config_answers_with_json_alone(overlay_host: DisposableHost) -> None:
    with Unchanged(overlay_host):
        for verb in ("config", "gitlab-config"):
            environment = {"JOB_RESPONSE_FILE": write(overlay_host, json.dumps(payload(42)))}
            done = overlay_host.run([TOOL, verb], env=environment)
            assert done.stderr == b""
            answer = json.loads(done.stdout)
            assert answer["driver"]["name"] == "nspawn-runner"
            assert answer["driver"]["version"]
            del answer["driver"]
            assert answer == {
                "hostname": "run-42",
                "builds_dir": "/builds",
                "cache_dir": "/cache",
                "builds_dir_is_shared": False,
                "shell": "bash",
            }


IMAGE_CASES = [
    # argument, the job's image, further options, settings
    ("bookworm", "nonesuch", [], ""),
    (None, "registry.example.com:5000/group/debian:bookworm", [], ""),
    (None, "registry.example.com/bookworm:latest@sha256:0123abcd", [], ""),
    (None, "ruby:3.2", [], 'images = { "ruby:*" = "bookworm" }'),
    (None, "", ["--default-image", "bookworm"], ""),
    (None, "", [], 'default_image = "bookworm"'),
]


@pytest.mark.parametrize(("argument", "asked", "options", "settings"), IMAGE_CASES)
def test_image_that_is_meant(
    overlay_host: DisposableHost, argument: str | None, asked: str, options: list[str], settings: str
) -> None:
    job_id = int(Job(overlay_host).id)
    asking = payload(job_id, image={"name": asked} if asked else None)
    with Job(overlay_host, str(job_id), payload=asking, settings=settings) as job:
        done = job.call("prepare", *options, *([argument] if argument else []))
        assert done.status == 0, done.message
        assert done.out.startswith(b"image bookworm, ")


def test_variables_of_the_job_do_not_say_which_job_it_is(overlay_host: DisposableHost) -> None:
    """A project may define CI_JOB_ID and CI_JOB_IMAGE: they are another job's and nonsense here."""
    with Job(overlay_host) as victim:
        victim.prepare()
        job_id = int(victim.id) + 100000
        lies = {"CUSTOM_ENV_CI_JOB_ID": victim.id, "CUSTOM_ENV_CI_JOB_IMAGE": "nonesuch"}
        variables = [{"key": "CI_JOB_ID", "value": victim.id}, {"key": "CI_JOB_IMAGE", "value": "nonesuch"}]
        with Job(overlay_host, str(job_id), payload=payload(job_id, variables=variables), env=lies) as liar:
            liar.prepare(None)
            assert liar.output("hostname") == f"run-{job_id}\n"
        assert victim.output("hostname") == f"{victim.machine}\n"


def test_older_runner_tells_the_job_in_variables(overlay_host: DisposableHost) -> None:
    job = Job(overlay_host)
    job.env |= {"CUSTOM_ENV_CI_JOB_ID": job.id, "CUSTOM_ENV_CI_JOB_IMAGE": "bookworm"}
    job.by_id = []
    with job:
        job.prepare(None)
        assert job.output("hostname") == f"{job.machine}\n"


def test_same_id_of_two_servers(overlay_host: DisposableHost) -> None:
    job_id = int(Job(overlay_host).id)
    there = payload(job_id, git_info={"repo_url": "https://other.example.com/group/p.git"})
    with Job(overlay_host, str(job_id), payload=payload(job_id)) as one:
        with Job(overlay_host, str(job_id), payload=there) as other:
            one.prepare(None)
            other.prepare(None)
            one.output("touch /root/one")
            assert other.script("ls /root/one").status == BUILD_FAILURE
        assert one.output("ls /root/one") == "/root/one\n"


def test_prepare_again_starts_afresh(host: DisposableHost) -> None:
    """The runner repeats prepare, with a cleanup in between or without."""
    with Job(host) as job:
        for _ in range(2):
            job.prepare()
            job.output("test ! -e /root/file && touch /root/file")
        job.cleanup()
        job.prepare()
        job.output("test ! -e /root/file")


def test_run_without_a_machine_is_the_hosts_fault(overlay_host: DisposableHost) -> None:
    job = Job(overlay_host)
    done = job.script("echo no")
    assert (done.status, done.out, done.code) == (SYSTEM_FAILURE, b"", None)
    assert f"job {job.id} has no machine" in done.message


def test_stage_by_hand_has_plain_statuses(overlay_host: DisposableHost) -> None:
    with Job(overlay_host) as job:
        for name in ("BUILD_FAILURE_EXIT_CODE", "SYSTEM_FAILURE_EXIT_CODE", "BUILD_EXIT_CODE_FILE"):
            del job.env[name]
        assert job.call("prepare", "nonesuch").status == 1
        assert job.script("exit 3").status == 2
        job.prepare()
        assert job.script("exit 3") == Done(1, b"", b"", None)


@pytest.fixture
def host_with_runner(host: DisposableHost) -> Iterator[DisposableHost]:
    program = host.path("/usr/bin/gitlab-runner")
    program.write_text("#!/bin/sh\necho the host\\'s\n")
    program.chmod(0o755)
    yield host
    program.unlink()


def test_gitlab_runner_of_the_host_is_lent(host_with_runner: DisposableHost) -> None:
    with Job(host_with_runner) as job:
        job.prepare()
        assert job.output("gitlab-runner --version") == "the host's\n"
        assert job.script('echo bad > "$(command -v gitlab-runner)"').status == BUILD_FAILURE
    assert host_with_runner.path("/usr/bin/gitlab-runner").read_text().startswith("#!/bin/sh\necho the")


OLD_RUNNER = r"printf '#!/bin/sh\necho an old one\n' >{0}; chmod 755 {0}"


@ON_ONE
@pytest.mark.parametrize(
    ("image_has", "called"),
    [
        (OLD_RUNNER.format("usr/bin/gitlab-runner"), ["gitlab-runner", "/usr/bin/gitlab-runner"]),
        (OLD_RUNNER.format("usr/local/bin/gitlab-runner"), ["gitlab-runner", "/usr/local/bin/gitlab-runner"]),
        (
            f"mkdir opt/ci; {OLD_RUNNER.format('opt/ci/gitlab-runner-linux-amd64')}; "
            "ln -s /opt/ci/gitlab-runner-linux-amd64 usr/bin/gitlab-runner; "
            "ln -s ../../bin/gitlab-runner usr/local/bin/gitlab-runner",
            ["gitlab-runner", "/usr/bin/gitlab-runner", "/usr/local/bin/gitlab-runner"],
        ),
        # A link to what is not there; one to itself, and a folder; one to a program of another name; one to the host's.
        ("ln -s /nonesuch/gitlab-runner usr/local/bin/gitlab-runner", ["gitlab-runner"]),
        ("ln -s gitlab-runner usr/bin/gitlab-runner; mkdir usr/local/bin/gitlab-runner", ["gitlab-runner"]),
        (
            "ln -s /bin/true usr/local/bin/gitlab-runner",
            ["gitlab-runner", "test -z $(/bin/true)$(true) && gitlab-runner"],
        ),
        ("ln -s ../../../../../../../../root/gitlab-runner-of-root usr/bin/gitlab-runner", ["gitlab-runner"]),
    ],
    ids=["bin", "local bin", "links", "dangling", "no file", "true", "outside"],
)
def test_gitlab_runner_is_the_host_s_whatever_the_image_has(
    host_with_runner: DisposableHost, image_has: str, called: list[str]
) -> None:
    """One of another version would not know the options that the host's calls it with."""
    host = host_with_runner
    places = "opt/ci usr/bin/gitlab-runner usr/local/bin/gitlab-runner"
    enter = f"cd {STATE_FOLDER}/bookworm; rm -rf {places}"
    host.run(["sh", "-ec", f"{enter}; echo outside >/root/gitlab-runner-of-root; {image_has}"])
    try:
        with Job(host) as job:
            job.prepare()
            said = job.output("; ".join(f"{program} --version" for program in called))
    finally:
        left = host.run(["sh", "-ec", f"{enter}; ls root; ls -d nonesuch 2>/dev/null || true"]).stdout
    assert said == "the host's\n" * len(called)
    assert left == b""
    assert host.run(["cat", "/root/gitlab-runner-of-root"]).stdout == b"outside\n"


def test_gitlab_runner_of_the_image_stays_where_the_settings_say_so(host_with_runner: DisposableHost) -> None:
    program = host_with_runner.path(f"{STATE_FOLDER}/bookworm/usr/bin/gitlab-runner")
    program.write_text("#!/bin/sh\necho the image\\'s\n")
    program.chmod(0o755)
    try:
        with Job(host_with_runner, settings='gitlab_runner = ""\n') as job:
            job.prepare()
            assert job.output("gitlab-runner --version") == "the image's\n"
    finally:
        program.unlink()


def test_cache_survives_and_is_nobody_elses(host: DisposableHost) -> None:
    other = {"repo_url": "https://other.example.com/group/p.git", "protected": True}
    unprotected = {"repo_url": "https://gitlab.example.com/group/p.git", "protected": False}
    strangers: list[dict[str, Any]] = [{"job_info": {"project_id": 42}}, {"git_info": other}, {"git_info": unprotected}]
    own = {"job_info": {"project_id": 41}}  # which no other test has
    for changed, expected in [({}, ""), ({}, "content\n"), *((stranger, "") for stranger in strangers)]:
        job_id = int(Job(host).id)
        with Job(host, str(job_id), payload=payload(job_id, **{**own, **changed})) as job:
            job.prepare(None)
            assert job.output("cat /cache/group/file 2>/dev/null || true") == expected, changed
            if not expected and not changed:
                job.output("mkdir /cache/group; echo content > /cache/group/file")
            assert job.output("ls /cache") == ("group\n" if not changed else "")
