"""Hostile ids, image names and payloads: a message of one to three lines, the right one to blame, nothing touched."""

import json
from collections.abc import Iterator

import pytest
from by_hand import BUILD_FAILURE, SYSTEM_FAILURE, TOOL, Done, Job, Unchanged, payload, write
from disposable_host import DisposableHost

BAD_IDS = ["1;rm -rf /", "../../x", "-x", "9" * 300, "", " 1", "1\n", "1.0", "0x10", "١", "$(id)", "--help", "1/2"]
BAD_IMAGES = [
    "../../etc",
    "/etc",
    ".cache",
    "..",
    ".",
    "book\nworm",
    "book worm",
    "$(touch /root/bad)",
    "`touch /root/bad`",
    "--help",
    "-x",
    "x" * 5000,
    ".generations",
    ".overlays/run-1",
    "bookworm/../bookworm",
    "bookworm/usr",
    "BOOKWORM",
    "bookw*",
    "\x1b[31mred",
    "größe",
    "\udcff",
    "nonesuch",
    "registry.example.com/nonesuch:latest",
    "${HOME}",
    "%n",
]


@pytest.fixture(scope="module")
def untouched(overlay_host: DisposableHost) -> Iterator[DisposableHost]:
    """A host that is the same after all tests of this module."""
    with Unchanged(overlay_host):
        files = ["/root/bad", "/etc/passwd", "/var/lib/nspawn-runner/bookworm"]
        before = [overlay_host.path(path).exists() for path in files]
        yield overlay_host
        assert [overlay_host.path(path).exists() for path in files] == before == [False, True, True]


@pytest.fixture(params=["overlay_host", "btrfs_host"])
def either(request: pytest.FixtureRequest) -> DisposableHost:
    found: DisposableHost = request.getfixturevalue(request.param)
    return found


def check(done: Done, status: int) -> str:
    """Check the form of a refusal and return its text."""
    assert (done.status, done.out) == (status, b""), done
    lines = done.message.splitlines()
    assert 1 <= len(lines) <= 3
    assert all(line.isprintable() and len(line) < 700 for line in lines)
    assert lines[0].startswith("nspawn-runner: ")
    return done.message


def by_environment(host: DisposableHost, **variables: str) -> Job:
    job = Job(host, env={f"CUSTOM_ENV_{name}": value for name, value in variables.items()})
    job.by_id = []
    return job


STAGES = {"config": [], "prepare": ["bookworm"], "run": ["/etc/hostname", "build_script"], "cleanup": []}


@pytest.mark.parametrize("stage", STAGES)
def test_hostile_id(untouched: DisposableHost, stage: str) -> None:
    for bad in BAD_IDS:
        by_hand = Job(untouched)
        by_hand.by_id = [f"--id={bad}"]
        told = Job(untouched, payload=payload(1, id=bad))
        for job in (by_hand, by_environment(untouched, CI_JOB_ID=bad), told):
            message = check(job.call(stage, *STAGES[stage]), SYSTEM_FAILURE)
            assert bad[:20].encode("unicode_escape").decode() in message or bad[:20] in message or not bad
            assert "job id" in message or "payload" in message


def test_no_id_at_all(untouched: DisposableHost) -> None:
    for stage, arguments in STAGES.items():
        for job in (by_environment(untouched), Job(untouched, payload={}), Job(untouched, payload=payload(1, id=None))):
            assert "job id" in check(job.call(stage, *arguments), SYSTEM_FAILURE)


@pytest.mark.parametrize("bad", [True, [1], {"a": 1}, 1.5, -1, 0.0])
def test_id_of_another_kind(untouched: DisposableHost, bad: object) -> None:
    check(Job(untouched, payload=payload(1, id=bad)).call("prepare"), SYSTEM_FAILURE)


@pytest.mark.parametrize("bad", BAD_IMAGES)
def test_hostile_image(untouched: DisposableHost, bad: str) -> None:
    """The job's fault, so that the runner does not retry; the message names it and the images there are."""
    told = Job(untouched, payload=payload(int(Job(untouched).id), image={"name": bad}))
    calls = [told.call("prepare")]
    if bad.isascii():
        by_hand = Job(untouched)
        variables = by_environment(untouched, CI_JOB_ID=by_hand.id, CI_JOB_IMAGE=bad)
        calls += [by_hand.call("prepare", "--", bad), variables.call("prepare")]
    for done in calls:
        message = check(done, BUILD_FAILURE)
        assert "there are: bookworm" in message
        shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in bad[:20])
        assert shown in message


def test_hostile_image_on_btrfs(btrfs_host: DisposableHost) -> None:
    with Unchanged(btrfs_host):
        for bad in ("../../etc", ".snapshots", "..", "nonesuch"):
            job_id = int(Job(btrfs_host).id)
            job = Job(btrfs_host, payload=payload(job_id, image={"name": bad}))
            assert "there are: bookworm" in check(job.call("prepare"), BUILD_FAILURE)


@pytest.mark.parametrize("image", [None, {}, {"name": ""}, {"name": None}, [], "bookworm"])
def test_no_image(untouched: DisposableHost, image: object) -> None:
    data = {**payload(int(Job(untouched).id)), "image": image}
    message = check(Job(untouched, payload=data).call("prepare"), BUILD_FAILURE)
    assert "asks for no image and there is no default" in message
    assert "there are: bookworm" in message


@pytest.mark.parametrize("image", [{"name": 3}, {"name": ["bookworm"]}, {"name": {}}])
def test_image_without_a_name(untouched: DisposableHost, image: object) -> None:
    data = {**payload(int(Job(untouched).id)), "image": image}
    assert "image" in check(Job(untouched, payload=data).call("prepare"), BUILD_FAILURE)


def test_no_images_there(untouched: DisposableHost) -> None:
    untouched.run(["mkdir", "--parents", "/root/empty"])
    for folder in ("/nonesuch/folder", "/root/empty"):
        job = Job(untouched, settings=f'state_folder = "{folder}"\n')
        message = check(job.call("prepare", "bookworm"), SYSTEM_FAILURE)
        assert f"there are no images in {folder}" in message
        assert "chroot-create" in message
    assert not untouched.path("/nonesuch").exists()


PAYLOADS = {
    "empty": b"",
    "not JSON": b"{t0k3n-of-the-job",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "not UTF-8": b'{"id": 1, "x": "\xff\xfe"}',
    "NUL bytes": b"\0" * 1000,
    "deep": b"[" * 100_000,
    "a huge number": b'{"id": ' + b"9" * 10_000 + b"}",
    "cut short": json.dumps(payload(1)).encode()[:-9],
}


@pytest.mark.parametrize("kind", PAYLOADS)
def test_hostile_payload(untouched: DisposableHost, kind: str) -> None:
    file = write(untouched, PAYLOADS[kind])
    for stage, arguments in STAGES.items():
        job = by_environment(untouched, CI_JOB_ID="1", CI_JOB_IMAGE="bookworm")
        job.env["JOB_RESPONSE_FILE"] = file
        message = check(job.call(stage, *arguments), SYSTEM_FAILURE)
        assert "payload" in message
        assert "t0k3n" not in message


@pytest.mark.parametrize("path", ["/nonesuch", "/root", "/dev/zero", "/root/fifo", "x" * 5000, "/root/loop", "/etc\n"])
def test_payload_that_is_no_file(untouched: DisposableHost, path: str) -> None:
    untouched.run(["sh", "-c", "[ -p /root/fifo ] || mkfifo /root/fifo; ln -sfn loop /root/loop"])
    job = by_environment(untouched, CI_JOB_ID="1", CI_JOB_IMAGE="bookworm")
    job.env["JOB_RESPONSE_FILE"] = path
    message = check(job.call("prepare"), SYSTEM_FAILURE)
    assert path[:20].replace("\n", "\\n") in message


def test_fields_of_other_kinds_are_as_if_missing(either: DisposableHost) -> None:
    """Nothing of the payload but id and image can keep a job from its machine."""
    odd = {
        "job_info": [1],
        "git_info": {"repo_url": "no url at all $(id) ../..", "protected": "yes"},
        "runner_info": {"timeout": -5},
        "variables": [1, {"key": 1}, {"key": "CI_SERVER_HOST", "value": "../../x"}],
    }
    job_id = int(Job(either).id)
    with Unchanged(either), Job(either, str(job_id), payload={**payload(job_id), **odd}) as job:
        job.prepare(None)
        assert job.output("hostname; ls /cache 2>/dev/null || true") == f"run-{job_id}\n"


@pytest.mark.parametrize(
    "arguments",
    [["nonesuch"], [], ["prepare", "a", "b"], ["run"], ["cleanup", "x"], ["prepare", "--nonesuch"], ["--config"], [""]],
)
def test_wrong_command_line(untouched: DisposableHost, arguments: list[str]) -> None:
    job = Job(untouched)
    done = untouched.run([job.argv("x")[0], *arguments], env=job.env, check=False)
    message = check(Done(done.returncode, done.stdout, done.stderr), SYSTEM_FAILURE)
    assert "--help" in message


@pytest.mark.parametrize("name", ["BUILD_FAILURE_EXIT_CODE", "SYSTEM_FAILURE_EXIT_CODE"])
@pytest.mark.parametrize("bad", ["", "x", "0", "256", "-1", "1.5", "9" * 100])
def test_exit_code_that_is_none(untouched: DisposableHost, name: str, bad: str) -> None:
    job = Job(untouched)
    job.env[name] = bad
    build = name == "BUILD_FAILURE_EXIT_CODE"
    done = job.call("prepare", "nonesuch") if build else job.script("true")
    check(done, 1 if build else 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chroot-import", "new", "/root/empty"], "the folder /root/empty is empty"),
        (["toml", "nowhere"], "there is no image nowhere"),
        (["lsit"], "there is no verb lsit"),
    ],
)
def test_what_is_not_there_is_told(overlay_host: DisposableHost, arguments: list[str], said: str) -> None:
    overlay_host.path("/root/empty").mkdir(exist_ok=True)
    done = overlay_host.run([TOOL, *arguments], check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(f"nspawn-runner: {said}")
    assert len(done.stderr.splitlines()) == 2
