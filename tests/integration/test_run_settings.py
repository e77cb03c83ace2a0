"""What an image says of its machines reaches them: limits, shell, backend, network, and the user of the scripts."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from by_hand import SECONDS, SYSTEM_FAILURE, TOOL, Done, Job, Unchanged, payload, terminate
from disposable_host import STATE_FOLDER, DisposableHost

IMAGE, USER, UID = "own", "ci", 1234
FILE = '[limits]\nmemory_max = "300M"\ntasks_max = 150\n'
PORT = 8765
LISTEN = ["python3", "-m", "http.server", str(PORT), "--bind", "127.0.0.1"]
CONNECT = f"(exec 3<>/dev/tcp/127.0.0.1/{PORT}) 2>/dev/null"
LINKS = "ip -brief link | awk '{print $1}' | cut -d@ -f1 | sort"
LOCAL = {"127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"}

Say = Callable[..., None]
# For what has nothing to do with where layers lie and whose files are in them.
ON_ONE = pytest.mark.parametrize("own", ["overlay_host"], indirect=True)


@pytest.fixture(scope="module", params=["overlay_host", "btrfs_host"])
def own(request: pytest.FixtureRequest) -> Iterator[DisposableHost]:
    """A host with an image of this module's own, a generation that has a user more."""
    host: DisposableHost = request.getfixturevalue(request.param)
    host.run([TOOL, "chroot-clone", "bookworm", IMAGE])
    add = ["useradd", "--create-home", "--uid", str(UID), "--groups", "games", "--shell", "/bin/bash", USER]
    host.run(["chroot", f"{STATE_FOLDER}/{IMAGE}", *add])
    yield host
    host.run([TOOL, "chroot-remove", IMAGE])


@pytest.fixture
def say(own: DisposableHost) -> Iterator[Say]:
    """Write down what the image says of its machines."""
    [path] = own.path(f"{STATE_FOLDER}/.generations/{IMAGE}").glob("*.json")
    before = path.read_text()

    def write_down(**run: Any) -> None:
        path.write_text(json.dumps({**json.loads(before), "run": run}))

    yield write_down
    path.write_text(before)


def job_of(host: DisposableHost, **project: Any) -> Job:
    number = next(Job._ids)
    return Job(host, str(number), payload=payload(number, image={"name": IMAGE}, **project), settings=FILE)


@pytest.fixture
def job(own: DisposableHost, say: Say) -> Iterator[Job]:
    """A job of a project, on the image; not yet prepared."""
    with job_of(own) as made:
        yield made


def test_the_image_stands_over_the_file(job: Job, say: Say) -> None:
    say(memory_max="200M", cpu_weight=77, shell="/bin/sh", backend="tmpfs")  # noqa: S604
    assert json.loads(job.call("config").out)["shell"] == "sh"
    assert job.prepare(None).out.startswith(f"image {IMAGE}, generation ".encode())
    shown = job.host.run(["systemctl", "show", "--property=MemoryMax,TasksMax,CPUWeight", job.unit]).stdout
    assert set(shown.decode().split()) == {f"MemoryMax={200 << 20}", "TasksMax=150", "CPUWeight=77"}
    assert job.record()["backend"] == "tmpfs"
    assert job.output("cat /proc/$$/comm; cat /sys/class/net/host0/operstate") == "sh\nup\n"


@ON_ONE
def test_what_is_wrong_is_told_before_anything_is_made(job: Job, say: Say) -> None:
    say(memory_max="lots", user="a b", nonesuch=1)
    with Unchanged(job.host):
        done = job.call("prepare")
    assert (done.status, done.out) == (SYSTEM_FAILURE, b"")
    for text in (f"the image {IMAGE}", "memory_max: ", "user: ", "nonesuch: "):
        assert text in done.message
    assert len(done.message.splitlines()) <= 3


@pytest.mark.parametrize("own", [{"usr/bin"}, {"usr/local/bin"}, {"usr/bin", "usr/local/bin"}])
def test_gitlab_runner_in_a_machine_is_the_hosts(overlay_host: DisposableHost, own: set[str]) -> None:
    """An older one of the image's does not know what a newer runner asks of it."""
    files = [overlay_host.path(f"{STATE_FOLDER}/bookworm/{folder}/gitlab-runner") for folder in own]
    helper = overlay_host.path("/root/gitlab-runner-of-the-host")
    for file, word in [*((file, "image") for file in files), (helper, "host")]:
        file.write_text(f"#!/bin/sh\necho the {word}\n")
        file.chmod(0o755)
    try:
        with Job(overlay_host, settings="gitlab_runner = '/root/gitlab-runner-of-the-host'\n") as job:
            job.prepare()
            calls = "; ".join(["gitlab-runner", *(f"/{folder}/gitlab-runner" for folder in sorted(own))])
            assert set(job.output(calls).splitlines()) == {"the host"}
    finally:
        for file in files:
            file.unlink()


@ON_ONE
def test_no_network(job: Job, say: Say) -> None:
    say(network="none")
    with Unchanged(job.host):
        job.prepare(None)
        for _ in range(2):
            assert job.output(LINKS) == "lo\n"
            assert job.output("ping -c 1 -W 3 -q 127.0.0.1 > /dev/null; echo $?; ip -6 route; ip -4 route") == "0\n"
            assert job.output("getent hosts $(hostname) | awk '{print $1}'") == "127.0.1.1\n"
            assert set(job.output("cat /etc/hosts").splitlines()) == {*LOCAL, f"127.0.1.1 {job.machine}"}
            assert job.script("cat /etc/resolv.conf").out == b""
            assert job.output("systemctl is-system-running --wait") == "running\n"
            assert "was rebooted under the script" in job.script("systemctl reboot; sleep 60").message
        job.cleanup()


@ON_ONE
def test_network_of_the_host(job: Job, say: Say) -> None:
    say(network="host")
    host = job.host
    with Unchanged(host), host.popen(LISTEN, cwd="/srv") as listener:
        try:
            host.run(["bash", "-c", f"until {CONNECT}; do sleep 0.05; done"])
            job.prepare(None)
            for _ in range(2):
                assert job.output(LINKS) == host.run(["bash", "-c", LINKS]).stdout.decode()
                job.output(CONNECT)
                assert job.output("cat /etc/resolv.conf") == host.path("/etc/resolv.conf").read_text()
                names = host.path("/etc/hosts").read_text()
                assert job.output("cat /etc/hosts") == f"{names}127.0.1.1 {job.machine}\n"
                assert job.output("hostname") == f"{job.machine}\n"
                assert job.output("getent hosts $(hostname) | awk '{print $1}'") == "127.0.1.1\n"
                assert job.output("systemctl is-system-running --wait") == "running\n"
                # Root in the machine is none for the host's network.
                assert int(job.output("cat /proc/self/uid_map").split()[1]) > 0
                assert job.script("ip link add dummy0 type dummy").status != 0
                assert "was rebooted under the script" in job.script("systemctl reboot; sleep 60").message
            job.cleanup()
        finally:
            listener.kill()


LOGIN = {
    "HOME": f"/home/{USER}",
    "USER": USER,
    "LOGNAME": USER,
    "SHELL": "/bin/bash",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TERM": "xterm",
    "PWD": f"/home/{USER}",
}


def test_scripts_of_a_user(job: Job, say: Say) -> None:
    say(user=USER, shell="/bin/sh")  # noqa: S604
    job.prepare(None)
    assert job.output("id -un; id -Gn") == f"{USER}\n{USER} games\n"
    environment = job.output("tr '\\0' '\\n' < /proc/$$/environ").splitlines()
    assert dict(line.split("=", 1) for line in environment) == LOGIN
    assert job.output("umask; pwd") == f"0022\n/home/{USER}\n"
    assert job.output("stat --format='%U %a' /builds /cache; touch /builds/x /cache/x") == f"{USER} 755\n" * 2
    done = job.script("echo out > /dev/stdout; echo err > /dev/stderr; exit 7")
    assert (done.code, done.out, done.err) == ("7\n", b"out\n", b"err\n")
    assert job.script("touch /etc/x; sudo -n id -u").out == b""
    repository = "/builds/group/project"
    job.output(f"git init --quiet {repository}; cd {repository}; git -c user.name=x -c user.email=x@y commit "
               "--quiet --allow-empty --message=x")  # fmt: skip
    assert job.output(f"cd {repository}; git log --format=%s; git status --short") == "x\n"
    assert job.script("systemctl reboot").status != 0
    assert job.output("sleep 600 & echo started") == "started\n"
    assert job.output("pgrep --uid ci sleep | wc -l") == "1\n"


def test_a_user_who_cannot_log_in(job: Job, say: Say) -> None:
    """Without a home and with /usr/sbin/nologin as shell: daemon of the image."""
    say(user="daemon")
    job.prepare(None)
    assert job.output("id -un; echo $SHELL; pwd; touch /builds/x") == "daemon\n/bin/bash\n/usr/sbin\n"


@ON_ONE
def test_cancel_ends_what_a_user_runs(job: Job, say: Say) -> None:
    say(user=USER)
    job.prepare(None)
    with job.start("trap 'echo tidied; exit 1' TERM; setsid sleep 601 & echo ready; wait") as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        terminate(process)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (SYSTEM_FAILURE, b"tidied\n")
    assert b"stopped by SIGTERM" in err
    assert job.script("pgrep --full '^sleep 601'").out == b""


def test_caches_of_users_are_apart_and_their_own(own: DisposableHost, say: Say) -> None:
    def on_cache(user: str, script: str) -> Done:
        say(user=user)
        with job_of(own, job_info={"project_id": 77}) as one:
            one.prepare(None)
            return one.script(script)

    assert on_cache("root", "mkdir --mode=700 /cache/p; echo roots > /cache/p/zip").status == 0
    assert on_cache(USER, "ls /cache; mkdir --mode=700 /cache/p; echo users > /cache/p/zip").out == b""
    assert on_cache(USER, "cat /cache/p/zip").out == b"users\n"
    assert on_cache("", "cat /cache/p/zip").out == b"roots\n"


@ON_ONE
@pytest.mark.parametrize("name", ["nonesuch", "root.x"])
def test_a_user_that_the_image_lacks(job: Job, say: Say, name: str) -> None:
    say(user=name)
    with Unchanged(job.host):
        done = job.call("prepare")
    assert (done.status, done.out) == (SYSTEM_FAILURE, b"")
    assert f"the image {IMAGE} has no user {name}" in done.message


@ON_ONE
def test_an_image_that_answers_without_end(own: DisposableHost, job: Job, say: Say) -> None:
    say(user=USER)
    program = own.path(f"{STATE_FOLDER}/{IMAGE}/usr/bin/chown")
    real = program.read_bytes()
    try:
        program.write_text("#!/bin/sh\nexec yes\n")
        began = time.monotonic()
        with Unchanged(own):
            done = job.call("prepare")
        assert (done.status, time.monotonic() - began < 20) == (SYSTEM_FAILURE, True)
        assert f"cannot be given to its user {USER}" in done.message
    finally:
        program.write_bytes(real)


def test_a_local_job_of_a_user(own: DisposableHost, say: Say) -> None:
    say(user=USER)
    script = "job:\n  script:\n    - id -un\n    - git log --format=%s\n    - stat --format=%U .\n"
    own.run(["bash", "-c", "rm -rf /root/local; mkdir /root/local; git init --quiet /root/local"])
    own.path("/root/local/.gitlab-ci.yml").write_text(script)
    commit = "git -c user.name=x -c user.email=x@y commit --quiet --message=message"
    own.run(["bash", "-c", f"set -e; git add .; {commit}"], cwd="/root/local")
    done = own.run([TOOL, "exec", "job", "--image", IMAGE], cwd="/root/local", check=False)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    said = [line for line in done.stdout.decode().splitlines() if not line.startswith("$")]
    assert [line for line in said if line in {USER, "message", "root"}] == [USER, "message", USER]


@ON_ONE
def test_the_settings_file_may_say_it_too(own: DisposableHost) -> None:
    with Job(own, settings=f'user = "{USER}"\nbuilds_dir = "/srv/a/b"\n[network]\nmode = "none"\n') as one:
        one.prepare(IMAGE)
        assert one.output(f"id -un; {LINKS}; touch /srv/a/b/x") == f"{USER}\nlo\n"
