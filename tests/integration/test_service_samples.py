# ruff: noqa: S607
"""The samples in playbooks/services/ serve jobs as the public images of that name would."""

import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from by_hand import TOOL, Job, Unchanged, payload
from debian_tree import debian_tree
from disposable_host import CHECKOUT, IMAGE_PACKAGES, STATE_FOLDER, DisposableHost

PLAYBOOKS = "/etc/nspawn-runner"
SECONDS = 900
POSTGRES = {"POSTGRES_USER": "us'er", "POSTGRES_PASSWORD": 'p "w$', "POSTGRES_DB": "data-base"}
MARIADB = {"MYSQL_DATABASE": "d`b", "MYSQL_USER": "us'er", "MYSQL_PASSWORD": "p'\\w", "MARIADB_ROOT_PASSWORD": "top"}
RABBIT = {"RABBITMQ_DEFAULT_USER": "me", "RABBITMQ_DEFAULT_PASS": "p w", "RABBITMQ_DEFAULT_VHOST": "v"}
# What a job asks of each: run in the service's own machine, which has the client, over the job's network.
ASKED = {
    "postgres": (POSTGRES, 'PGPASSWORD="$POSTGRES_PASSWORD" psql -h postgres --username="$POSTGRES_USER" '
                           '-t --no-align --command="SELECT current_database()" "$POSTGRES_DB"', "data-base"),
    "redis": ({"REDIS_PASSWORD": "pw"}, 'redis-cli -h redis --no-auth-warning -a "$REDIS_PASSWORD" ping', "PONG"),
    "mariadb": (MARIADB, 'mariadb --host=mysql --user="$MYSQL_USER" --password="$MYSQL_PASSWORD" --batch '
                         '--skip-column-names --execute="SELECT DATABASE()" "$MYSQL_DATABASE"; '
                         'mariadb --host=mariadb --user=root --password=top --execute="SELECT 1" >/dev/null', "d`b"),
    "rabbitmq": (RABBIT, "rabbitmqctl --quiet authenticate_user me 'p w' >/dev/null && "
                         "rabbitmqctl --quiet list_permissions --vhost v | grep -o '^me'", "me"),
    "nginx": ({}, "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://nginx/\").status)'", "200"),
    "mail": ({}, """python3 -c '
import smtplib, urllib.request as u
smtplib.SMTP("mail", 1025).sendmail("a@b", ["c@d"], "Subject: x")
print(b"href" in u.urlopen("http://mail:8025/new/").read())'""", "True"),
}  # fmt: skip
LONG = pytest.mark.soak
EACH = [pytest.param(name, marks=() if name in {"postgres", "redis"} else LONG) for name in ASKED]


class Base(NamedTuple):
    """A host and the image that those of services are made from."""

    host: DisposableHost
    image: str


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=LONG)])
def base(request: pytest.FixtureRequest, overlay_host: DisposableHost) -> Iterator[Base]:
    """A host with an image of the suite, put there by hand."""
    host, suite = overlay_host, request.param
    if suite != "bookworm":
        tree = debian_tree("image", suite, IMAGE_PACKAGES)
        subprocess.run(["cp", "--archive", tree, host.path(f"{STATE_FOLDER}/{suite}")], check=True)
    host.run(["mkdir", "--parents", PLAYBOOKS])
    yield Base(host, suite)
    host.run(["rm", "-rf", PLAYBOOKS])


def make(base: Base, name: str) -> None:
    playbook = (CHECKOUT / f"playbooks/services/{name}.yaml").read_text()
    extends = "nspawn_runner_chroot_extends: "
    assert f"{extends}bookworm" in playbook
    base.host.path(f"{PLAYBOOKS}/{name}.yaml").write_text(playbook.replace(f"{extends}bookworm", extends + base.image))
    done = base.host.run([TOOL, "chroot-maintenance", name, "--verbose"], check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stdout.decode()[-3000:] + done.stderr.decode()[-3000:]


def test_every_sample_is_tried() -> None:
    assert {path.stem for path in (CHECKOUT / "playbooks/services").iterdir()} == {*ASKED}


@pytest.mark.parametrize("name", EACH)
def test_it_serves_a_job(base: Base, name: str) -> None:
    variables, ask, answer = ASKED[name]
    made = base.host
    make(base, name)
    try:
        service: dict[str, Any] = {
            "name": f"{name}:latest",
            "alias": "mysql" if name == "mariadb" else "",
            "variables": [{"key": key, "value": value, "raw": True} for key, value in variables.items()],
        }
        with Unchanged(made):
            job = Job(made)
            with Job(made, job.id, payload=payload(int(job.id), services=[service])) as job:
                done = job.call("prepare")
                assert done.status == 0, done.message
                assert "ready in" in done.message.splitlines()[-1], done.message
                assert "WARNING" not in done.message
                shown = "".join(f"export {key}={quoted(value)}\n" for key, value in variables.items())
                asked = made.run([TOOL, "login", job.id, name, "--", "bash", "-c", shown + ask], check=False)
                assert asked.stdout.decode().split("\n")[0] == answer, asked.stderr.decode()
    finally:
        made.run([TOOL, "chroot-remove", name])


def quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


@LONG
def test_the_example(base: Base) -> None:
    """The web application of examples/services, as its README says it."""
    if base.image != "bookworm":
        pytest.skip("the example's job is of bookworm")
    host = base.host
    subprocess.run(["cp", "--recursive", CHECKOUT / "examples/services", host.path("/root/services")], check=True)
    for name in ("postgres", "redis"):
        make(base, name)
    done = host.run([TOOL, "exec", "test", "--dirty"], cwd="/root/services", check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stdout.decode()[-3000:] + done.stderr.decode()[-2000:]
    assert b"visits are counted in both" in done.stdout
