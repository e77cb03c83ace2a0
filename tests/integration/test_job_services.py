"""Services of jobs: machines of their own in a network with the job's, ready before its scripts, gone with it."""

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from by_hand import BUILD_FAILURE, TOOL, Job, Unchanged, lines_of, payload, terminate, together, wait_until
from disposable_host import DisposableHost

WEB = "import http.server as s; s.test(s.SimpleHTTPRequestHandler, port=8080)"
FETCH = "python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).status)' http://{}:8080/"
LONG = "a" * 64


def service(alias: str = "web", **more: Any) -> dict[str, Any]:
    return {
        "name": "bookworm",
        "alias": alias,
        "entrypoint": ["python3", "-c"],
        "command": [WEB],
        "variables": [{"key": "HEALTHCHECK_TCP_PORT", "value": "8080"}],
        **more,
    }


def job_with(host: DisposableHost, *services: Any, settings: str | None = None, **changed: Any) -> Job:
    job = Job(host, settings=settings)
    return Job(host, job.id, payload=payload(int(job.id), services=list(services), **changed), settings=settings)


@pytest.fixture(scope="module")
def running(btrfs_host: DisposableHost) -> Iterator[Job]:
    """A job with two services, which most tests here only look at."""
    variables = [
        {"key": "GREETING", "value": "hello $WHO", "public": True},
        {"key": "WHO", "value": "you & \"me\" `x` $$ \\ 'y'", "public": True, "raw": True},
        {"key": "SECRET", "value": "s3cret", "public": False, "masked": True},
    ]
    place = [{"key": "PLACE", "value": "in $GREETING"}]
    db = service("db,store.internal", variables=place, command=None, entrypoint=None)
    with job_with(btrfs_host, service("web"), db, variables=variables) as job:
        done = job.call("prepare")
        assert done.status == 0, done.message
        assert "service web: image bookworm, machine" in done.message
        assert "service db: image bookworm, machine" in done.message
        yield job


def test_both_backends_and_nothing_is_left(host: DisposableHost) -> None:
    with Unchanged(host), job_with(host, service()) as job:
        assert job.call("prepare").status == 0
        assert job.output(FETCH.format("web")) == "200\n"


def test_all_names(running: Job) -> None:
    for name in ("web", f"{running.machine}-s1"):
        assert running.output(FETCH.format(name)) == "200\n"
    found = running.output("getent hosts db store.internal bookworm").splitlines()
    assert [line.split()[0] for line in found] == ["198.18.213.3", "198.18.213.3", "198.18.213.2"]
    seen = in_service(running, "db", f"getent hosts build {running.machine} web; {FETCH.format('web')}")
    assert seen.split() == [
        "198.18.213.1", "build", running.machine, "198.18.213.1", "build", running.machine,
        "198.18.213.2", "web", "bookworm", f"{running.machine}-s1", "200",
    ]  # fmt: skip


def in_service(job: Job, name: str, script: str) -> str:
    return job.host.run([TOOL, "login", job.id, name, "--", "sh", "-c", script]).stdout.decode()


def test_public_variables_reach_all_units(running: Job) -> None:
    ask = "systemd-run --quiet --pipe --wait /usr/bin/env | grep -E '^(GREETING|WHO|PLACE|SECRET)' | sort"
    who = "you & \"me\" `x` $$ \\ 'y'"
    assert in_service(running, "db", ask).splitlines() == [
        f"GREETING=hello {who}", f"PLACE=in hello {who}", f"WHO={who}",
    ]  # fmt: skip
    assert "PLACE" not in in_service(running, "web", "cat /run/nspawn-runner/start/service.env")
    reloaded = in_service(running, "db", f"systemctl daemon-reload; {ask}")
    assert "GREETING=hello" in reloaded


def test_list_and_login(running: Job) -> None:
    rows = json.loads(running.host.run([TOOL, "list", "--json"]).stdout)
    mine = {row["machine"]: row["service"] for row in rows if row["job"] == running.id}
    assert mine == {running.machine: "", f"{running.machine}-s1": "web", f"{running.machine}-s2": "db"}
    assert "web: bookworm" in running.host.run([TOOL, "list"]).stdout.decode()
    done = running.host.run([TOOL, "login", running.id, "nope"], check=False)
    assert b"it has: web (" in done.stderr
    assert running.host.run([TOOL, "login", running.id, "--", "hostname"]).stdout.decode().strip() == running.machine


def test_a_service_that_reboots_is_reached_again(running: Job) -> None:
    before = in_service(running, "web", "cat /proc/1/stat")
    running.host.run([TOOL, "login", running.id, "web", "--", "systemctl", "reboot"], check=False)
    wait_until(lambda: FETCHED in running.script(FETCH.format("web")).out, seconds=30)
    assert in_service(running, "web", "cat /proc/1/stat") != before


FETCHED = b"200\n"


def test_the_job_reboots(running: Job) -> None:
    running.script("systemctl reboot; sleep 60")
    assert running.output(FETCH.format("web")) == "200\n"


def test_two_jobs_may_use_the_same_names_and_reach_nothing_of_each_other(either_host: DisposableHost) -> None:
    host = either_host
    with job_with(host, service()) as one, job_with(host, service()) as other:
        assert [job.call("prepare").status for job in (one, other)] == [0, 0]
        for job in (one, other):
            assert job.output(FETCH.format("web")) == "200\n"
            job.output("echo mine > /dev/null")
        marked = in_service(one, "web", "echo of-one > /of-one; ls /of-one")
        assert marked == "/of-one\n"
        read = FETCH.replace(".status", ".read().decode()").format("web")
        assert "of-one" in one.output(read)
        assert "of-one" not in other.output(read)
        # Neither the machines' common network nor the host leads to another job's service.
        addresses = lines_of(host, "ip -json neighbour show dev nspr0 | python3 -c 'import json, sys; "
                                   "print(*[each[\"dst\"] for each in json.load(sys.stdin)])'")[0].split()
        assert len(addresses) >= 4
        for address in addresses:
            assert job.script(f"timeout 3 {FETCH.format(address)}").status != 0
        assert host.run(["sh", "-c", f"timeout 3 {FETCH.format('198.18.213.2')}"], check=False).returncode != 0


def test_not_ready_in_time_is_a_warning(overlay_host: DisposableHost) -> None:
    never = service("never", command=["import time; time.sleep(1000)"])
    began = time.monotonic()
    with Unchanged(overlay_host), job_with(overlay_host, never, service()) as job:
        done = job.call("prepare")
        assert done.status == 0
        assert "service never (image bookworm): not ready after" in done.message
        assert "asked: port 8080" in done.message
        assert "service web" in done.message
        assert time.monotonic() - began < 60
        assert job.output(FETCH.format("web")) == "200\n"


def test_a_service_that_dies_is_told_at_the_end(either_host: DisposableHost) -> None:
    with Unchanged(either_host), job_with(either_host, service()) as job:
        assert job.call("prepare").status == 0
        job.host.run([TOOL, "login", job.id, "web", "--", "systemctl", "poweroff"], check=False)
        wait_until(lambda: not job.host.path(f"/run/nspawn-runner/{job.machine}-s1/ready").exists())
        done = job.script("true", "cleanup_file_variables")
        assert "service web ended before the job did" in done.message
        assert "it was powered off from inside" in done.message


@pytest.mark.parametrize(
    ("services", "said"),
    [
        (["nope:1"], "service nope:1: there is no image 'nope:1'"),
        ([service()] * 11, "too many services: the job asks for 11, and it may have 10"),
        (["$(reboot)"], "service $(reboot): '$(reboot)' cannot be the name of an image"),
        ([5], "service 1 cannot be read: it is neither a name nor a table"),
        ([{"alias": "x"}], "service 1 has no image"),
        ([service(command="ls")], "command of the service bookworm is no list of texts"),
        ("[{", "what the job says of its services cannot be read: it is not valid JSON"),
        ({"name": "bookworm"}, "what the job says of its services cannot be read: it is not a list"),
    ],
    ids=["unknown", "too many", "hostile", "number", "nameless", "command", "json", "table"],
)
def test_bad_services_fail_the_build(either_host: DisposableHost, services: Any, said: str) -> None:
    with Unchanged(either_host):
        job = Job(either_host)
        with Job(either_host, job.id, payload=payload(int(job.id), services=services)) as job:
            done = job.call("prepare")
            assert done.status == 91
            assert said in " ".join(done.message.split()).replace("nspawn-runner: ", "").replace(" : ", ": ") or (
                said.split(": ", maxsplit=1)[0] in done.message and said.rsplit(": ", maxsplit=1)[-1] in done.message
            )


def test_bad_names_are_told_and_left_out(either_host: DisposableHost) -> None:
    names = f"LocalHost build ok -x {LONG} a_b x\n127.0.0.1 run-1 1.2.3.4 *"
    with Unchanged(either_host), job_with(either_host, service(names), service("ok other")) as job:
        done = job.call("prepare")
        assert done.status == 0
        for name in ("LocalHost", "build", "run-1", "-x", LONG, "1.2.3.4", "127.0.0.1", "*"):
            assert f"the name '{name[:59]}" in done.message, done.message
        assert "the name 'ok' is left out: it means another machine" in done.message
        hosts = job.output("cat /etc/hosts")
        assert "198.18.213.2 ok a_b x bookworm run-" in hosts
        assert f"198.18.213.3 other {job.machine}-s2" in hosts


@pytest.mark.parametrize("words", [["a b", "'", '"', "$HOME", "%n", "\\", "*", "\n", "-n", "ü", "`id`"]])
def test_every_quoting_of_a_command(either_host: DisposableHost, words: list[str]) -> None:
    tell = "import json, sys; open('/words', 'w').write(json.dumps(sys.argv[1:]))"
    said = service(entrypoint=["python3", "-c", tell], command=words, variables=[])
    with job_with(either_host, said) as job:
        assert job.call("prepare").status == 0
        wait_until(lambda: in_service(job, "web", "cat /words 2>/dev/null || true"))
        assert json.loads(in_service(job, "web", "cat /words")) == words


def test_what_may_be_a_service(either_host: DisposableHost) -> None:
    with job_with(either_host, service(), settings='allowed_services = ["postgres*"]') as job:
        done = job.call("prepare")
        assert done.status == 91
        assert "does not let this job use the image bookworm for a service" in done.message
        assert "allowed_services" in done.message
    settings = 'allowed_images = ["bookworm"]\nallowed_services = ["bookworm"]\nservices_max = 1'
    with job_with(either_host, service(), settings=settings) as job:
        assert job.call("prepare").status == 0


def test_without_a_payload(either_host: DisposableHost) -> None:
    told = json.dumps([{**service(), "variables": {"HEALTHCHECK_TCP_PORT": "8080"}}])
    job = Job(either_host)
    known = {"JOB_ID": job.id, "JOB_SERVICES": told, "JOB_IMAGE": "bookworm"}
    variables = {f"CUSTOM_ENV_CI_{name}": value for name, value in known.items()}
    with Unchanged(either_host), Job(either_host, job.id, env=variables) as job:
        job.by_id = []
        assert job.call("prepare").status == 0
        assert job.output(FETCH.format("web")) == "200\n"


def test_a_killed_prepare_leaves_what_gc_removes(host: DisposableHost) -> None:
    with Unchanged(host):
        job = job_with(host, service(), service("other"))
        call = host.popen(job.argv("prepare"), env=job.env)
        wait_until(lambda: len([*host.path("/run/nspawn-runner").glob(f"{job.machine}*.json")]) == 3)
        call.kill()
        call.wait()
        wait_until(lambda: b"nothing is left" in host.run([TOOL, "gc"], check=False).stdout)


def test_a_job_and_its_services_share_the_jobs_limits(either_host: DisposableHost) -> None:
    """What a service takes the job does not have, and the other way round; a job beside has its own."""
    limits = '[limits]\nmemory_max = "400M"\ntasks_max = 300\n'
    hold = "import time; held = bytearray(250 << 20); open('/run/held', 'w'); time.sleep(600)"
    take = "python3 -c 'bytearray(250 << 20)'; echo status $?"
    with Unchanged(either_host), job_with(either_host, service(command=[hold], variables=[]), settings=limits) as job:
        assert job.call("prepare").status == 0
        wait_until(lambda: in_service(job, "web", "ls /run") and "held" in in_service(job, "web", "ls /run"))
        with Job(either_host, settings=limits) as beside:
            beside.prepare()
            assert beside.output(take) == "status 0\n"
        either_host.run(["systemctl", "daemon-reload"])
        done = job.script(take)
        killed_here = "status 137" in done.out.decode()
        assert killed_here == ("out of memory: limit 400 MiB" in done.message)
        held = in_service(job, "web", "systemctl is-active nspawn-runner-command || true").strip()
        assert killed_here or held != "active"
        sleepers = "for n in $(seq 200); do sleep 60 & done; jobs | wc -l"
        assert in_service(job, "web", f"bash -c '{sleepers}'").strip() == "200"
        refused = job.script(f"{sleepers}")
        assert "task limit reached" in refused.message
    properties = either_host.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "machine-*.slice"])
    assert properties.stdout == b""


def test_a_service_without_measure_is_no_fault_of_the_host(either_host: DisposableHost) -> None:
    """Whether it takes the job's tasks before the job's machine is up, or later."""
    fork = "import os, time; [os.fork() for _ in range(20)]; time.sleep(600)"
    greedy = service(command=[fork], variables=[])
    with Unchanged(either_host), job_with(either_host, greedy, settings="[limits]\ntasks_max = 120\n") as job:
        for done in (job.call("prepare"), job.script("true"), job.script("true")):
            assert done.status in {0, BUILD_FAILURE}, done.message
            if done.status:
                assert "task limit reached: the job and its services may have 120" in done.message


def test_a_failed_jobs_services_are_kept_with_it(either_host: DisposableHost) -> None:
    with Unchanged(either_host):
        with job_with(either_host, service(), settings='keep_failed = "30min"') as job:
            assert job.call("prepare").status == 0
            assert job.script("exit 3").status == 91
        names = {row["machine"]: row["state"] for row in json.loads(either_host.run([TOOL, "list", "--json"]).stdout)}
        assert names == {job.machine: "kept", f"{job.machine}-s1": "kept"}
        either_host.run([TOOL, "cleanup", "--id", job.id])


def test_exec(either_host: DisposableHost) -> None:
    either_host.run(["mkdir", "--parents", "/root/with-services", "/var/lib/nspawn-runner/.build"])
    file = either_host.path("/root/with-services/.gitlab-ci.yml")
    file.write_text(json.dumps({
        "variables": {"PORT": "8080"},
        "test": {
            "image": "bookworm",
            "services": [{"name": "bookworm", "alias": "web", "entrypoint": ["python3", "-c"], "command": [WEB],
                          "variables": {"HEALTHCHECK_TCP_PORT": "$PORT"}}],
            "script": [FETCH.format("web")],
        },
    }))  # fmt: skip
    with Unchanged(either_host):
        done = either_host.run([TOOL, "exec", "test"], cwd="/root/with-services", check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert b"\n200\n" in done.stdout
        assert b"service web: image bookworm" in done.stderr
        alone = either_host.run([TOOL, "exec", "test", "--without-services"], cwd="/root/with-services", check=False)
        assert alone.returncode == 1
        assert b"service web" not in alone.stderr


def test_debugging_services(either_host: DisposableHost) -> None:
    env = {"CUSTOM_ENV_CI_DEBUG_SERVICES": "true"}
    with job_with(either_host, service()) as job:
        job.env.update(env)
        assert job.call("prepare").status == 0
        first, second = job.script(FETCH.format("web")), job.script(FETCH.format("web"))
        for done in (first, second):
            lines = [line for line in done.message.splitlines() if "[service:web]" in line]
            assert any('"GET / HTTP/1.1" 200' in line for line in lines), done.message
        assert first.message.count("Started systemd-logind") == 1
        assert "systemd-logind" not in second.message
        # As they come: before the script is over.
        wait = "for _ in $(seq 100); do sleep 0.1; done; echo over"
        with job.start(f"{FETCH.format('web')}; {wait}", merged=True) as process:
            assert process.stdout
            told = b""
            while b'"GET / HTTP/1.1" 200' not in told and (piece := os.read(process.stdout.fileno(), 4096)):
                told += piece
            assert b"[service:web]" in told
            assert b"over" not in told
            began = time.monotonic()
            terminate(process)
            process.wait(60)
            assert time.monotonic() - began < 10
        job.env.pop("CUSTOM_ENV_CI_DEBUG_SERVICES")
        assert "[service:web]" not in job.script("true").message


def test_root_of_each_is_another_nobody_of_the_host(running: Job) -> None:
    machines = [running.machine, f"{running.machine}-s1", f"{running.machine}-s2"]
    maps = set()
    for machine in machines:
        leader = running.host.run(["machinectl", "show", "--property=Leader", "--value", machine]).stdout.decode()
        maps.add(lines_of(running.host, f"cat /proc/{leader.strip()}/uid_map")[0].split()[1])
    assert len(maps) == 3
    assert "0" not in maps


def test_the_host_is_not_in_the_network_of_a_job(running: Job) -> None:
    """Nor by its addresses on other links, which a host usually answers for on all of them."""
    known = json.loads(running.host.run(["ip", "-json", "-4", "address", "show", "dev", "nspr0"]).stdout)
    address = known[0]["addr_info"][0]["local"]
    ask = f"ping -c 1 -W 1 {address}"
    assert running.script(ask).status == 0  # by the way that it has otherwise
    assert running.script(f"ip route add {address}/32 dev job0 && ! {ask}").status == 0
    running.output(f"ip route delete {address}/32")
    seen = running.output("ip neighbour flush dev job0; ping -c 1 -W 1 -b 198.18.213.255 >/dev/null 2>&1; ip neighbour")
    assert all("job0" not in line or "198.18.213." in line for line in seen.splitlines())


@pytest.mark.parametrize("number", [3, pytest.param(10, marks=pytest.mark.soak)])
def test_jobs_with_services_at_once(host: DisposableHost, number: int) -> None:
    with Unchanged(host):
        jobs = [job_with(host, service(), service("other")) for _ in range(number)]
        try:
            for done in together(host, [(job, job.argv("prepare")) for job in jobs]):
                assert done.status == 0, done.message
                assert done.message.count("ready in") == 2, done.message
            for job in jobs:
                assert job.output(f"{FETCH.format('web')}; {FETCH.format('other')}") == "200\n200\n"
        finally:
            assert {done.status for done in together(host, [(job, job.argv("cleanup")) for job in jobs])} == {0}


def test_a_service_that_reboots_for_ever(either_host: DisposableHost) -> None:
    again = service("again", entrypoint=["systemctl", "reboot", "--force"], command=[], variables=[])
    with Unchanged(either_host), job_with(either_host, again) as job:
        assert job.call("prepare").status == 0
        assert job.script("true").status == 0


def test_a_job_handles_its_own_services(running: Job) -> None:
    assert running.output("nspawn-runner services") == "web\ndb\n"
    assert running.output("nspawn-runner run db hostname; nspawn-runner run store.internal id -un") == (
        f"{running.machine}-s2\nroot\n"
    )
    tell = "cat; echo \"it is $1\" >&2; exit 7"
    done = running.script(f"nspawn-runner run db sh -c '{tell}' sh 'a  b' < /bin/true; echo $?")
    size = len(running.host.path("/var/lib/nspawn-runner/bookworm/bin/true").read_bytes())
    assert done.out.endswith(b"7\n")
    assert len(done.out) == size + 2
    assert "it is a  b" in done.message
    assert running.output("nspawn-runner run db printenv GREETING").startswith("hello you")


def test_output_of_a_service_comes_as_it_is_written(running: Job) -> None:
    slow = "echo first; echo warned >&2; while ! [ -e /run/go-on ]; do sleep 0.05; done; echo last; sleep 600 &"
    with running.start(f"nspawn-runner run web sh -c '{slow}'; echo $?", merged=True) as process:
        assert process.stdout
        told = b""
        while not (b"first" in told and b"warned" in told):
            piece = os.read(process.stdout.fileno(), 4096)
            assert piece, told
            told += piece
        assert b"last" not in told
        in_service(running, "web", "touch /run/go-on")
        # What it leaves running holds nothing up.
        assert process.communicate(timeout=30)[0].endswith(b"last\n0\n")
    many = "seq 200000; seq 200000 >&2"
    many = running.output(f"nspawn-runner run web sh -c '{many}' 2>&1 >/tmp/out | md5sum; md5sum </tmp/out")
    assert len(set(many.splitlines())) == 1
    wait_until(lambda: in_service(running, "web", "ls -d /var/tmp/nspawn-runner.* 2>/dev/null || true") == "")


def test_a_job_copies_to_and_from_its_services(running: Job) -> None:
    assert running.output("""
        mkdir -p '/tmp/a b/c'; echo one > '/tmp/a b/c/d'; chmod 640 '/tmp/a b/c/d'
        nspawn-runner copy '/tmp/a b' /etc/hostname db:/srv
        nspawn-runner run db sh -c 'stat --format=%a "/srv/a b/c/d"; cat "/srv/a b/c/d" /srv/hostname' </dev/null
        mkdir /tmp/back; nspawn-runner copy 'db:/srv/a b' db:/etc/hostname /tmp/back; find /tmp/back -type f | sort
        nspawn-runner copy db:/nonesuch /tmp/back 2>/dev/null || echo failed
    """).splitlines() == ["640", "one", running.machine, "/tmp/back/a b/c/d", "/tmp/back/hostname", "failed"]


def test_a_job_restarts_and_reboots_its_services(running: Job) -> None:
    ask = "nspawn-runner run web systemctl show --property=MainPID --value nspawn-runner-command"
    first, second = running.output(f"{ask}; nspawn-runner restart web nspawn-runner-command; {ask}").split()
    assert first != second
    ask = "nspawn-runner run web systemctl show --property=UserspaceTimestampMonotonic --value"
    first, second = running.output(f"{ask}; nspawn-runner reboot web; {ask}").split()
    assert first != second
    wait_until(lambda: running.script(FETCH.format("web")).out == FETCHED)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("run nope true", "the job has no service nope; it has: web db"),
        ("run", "run SERVICE COMMAND"),
        ("", "The services of this job:"),
        ("copy x", "copy FILE... SERVICE:FOLDER"),
        ("run '../../x' true", "the job has no service ../../x"),
    ],
)
def test_wrong_calls_in_a_job(running: Job, call: str, said: str) -> None:
    done = running.script(f"nspawn-runner {call}; echo $?")
    assert done.out == b"255\n"
    assert said in done.message


def test_who_does_not_know_the_token_is_not_heard(running: Job) -> None:
    ask = "exec 3<>/dev/tcp/db/213; printf '%s\\n' {} run $(echo 'touch /heard' | base64) 0 >&3; timeout 5 cat <&3"
    for token in ("x", "''", "'*'", "$(head -c 31 /run/nspawn-runner/start/token)"):
        assert running.script(ask.format(token)).out == b""
    assert in_service(running, "db", "ls /heard 2>/dev/null; echo none") == "none\n"
    assert running.output(ask.format("$(cat /run/nspawn-runner/start/token)")).strip().isalnum()
    assert in_service(running, "db", "ls /heard") == "/heard\n"
    assert running.host.run(["sh", "-c", "ls /usr/local/bin/nspawn-runner 2>/dev/null"], check=False).stdout == b""


@pytest.mark.soak
def test_a_role_is_converged_on_a_service(either_host: DisposableHost) -> None:
    """With Ansible in the job, over the connection that the job is given; the service is rebooted and verified."""
    with job_with(either_host, service(entrypoint=[], command=[], variables=[])) as job:
        assert job.call("prepare").status == 0
        job.output("apt-get -qq update && apt-get -qq install --yes --no-install-recommends ansible-core >/dev/null")
        done = job.script("""
            nspawn-runner inventory > /tmp/services.yaml
            export ANSIBLE_CONNECTION_PLUGINS=/run/nspawn-runner/start
            cat > /tmp/play.yaml << 'END'
            - hosts: web
              tasks:
                - copy: {content: hello, dest: /srv/hello}
                - command: systemctl is-system-running --wait
                - fetch: {src: /srv/hello, dest: /tmp/fetched, flat: true}
END
            ansible-playbook -i /tmp/services.yaml /tmp/play.yaml </dev/null
            nspawn-runner reboot web
            ansible-playbook -i /tmp/services.yaml /tmp/play.yaml </dev/null
            cat /tmp/fetched
        """)
        log = done.out.decode()
        assert log.count("failed=0") == 2, log + done.message
        assert log.endswith("hello")


def test_without_another_network(either_host: DisposableHost) -> None:
    """A job whose machine has no network but that with its services; these have no other either."""
    with Unchanged(either_host), job_with(either_host, service(), settings='network = {mode = "none"}') as job:
        assert job.call("prepare").status == 0
        assert job.output(FETCH.format("web")) == "200\n"
        for said in (job.output("ip -json link"), in_service(job, "web", "ip -json link")):
            assert {link["ifname"] for link in json.loads(said)} == {"lo", "job0"}


def test_the_hosts_own_network_has_no_place_for_services(either_host: DisposableHost) -> None:
    with Unchanged(either_host), job_with(either_host, service(), settings='network = {mode = "host"}') as job:
        done = job.call("prepare")
        assert done.status == 91
        assert "a job with services needs a network of its own" in done.message
