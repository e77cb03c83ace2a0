# ruff: noqa: S607
"""setup makes what is missing, twice means once, and takes it back."""

import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import toml
from by_hand import TOOL
from disposable_host import STATE_FOLDER, DisposableHost

CONFIG = "/etc/gitlab-runner/config.toml"
URL, TOKEN = "https://gitlab.example.com", "glrt-s3cr3t"
OTHERS = '# theirs\nconcurrent = 3\n\n[[runners]]\n  name = "shell"\n  token = "t"\n  executor = "shell"\n'
UNIT = "/etc/systemd/system/nspawn-runner-gc"


@pytest.fixture(scope="module")
def host(job_image: Path) -> Iterator[DisposableHost]:
    """A host with an image and nothing else of ours."""
    with DisposableHost() as host:
        host.run(["mkdir", "--parents", f"{STATE_FOLDER}/bookworm", "/etc/nspawn-runner", "/etc/gitlab-runner"])
        subprocess.run(["cp", "--archive", f"{job_image}/.", host.path(f"{STATE_FOLDER}/bookworm")], check=True)
        host.path("/root/token").write_text(f"{TOKEN}\n")
        yield host


def setup(host: DisposableHost, *words: str, stdin: bytes | None = None, status: tuple[int, ...] = (0, 1)) -> str:
    """Call setup; return all that it said, in which the token never is."""
    done = host.run([TOOL, "--verbose", "setup", *words], stdin=stdin, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode in status, said
    assert TOKEN not in said
    return said


def files_of(host: DisposableHost) -> str:
    script = f"find /etc/systemd/system/nspawn-runner* /usr/local/share -type f; md5sum {CONFIG}; stat -c %a {CONFIG}"
    return host.run(["sh", "-c", f"({script}) 2>/dev/null"], check=False).stdout.decode()


def test_all_of_it_twice_and_back(host: DisposableHost) -> None:
    host.path(CONFIG).write_text(OTHERS)
    host.run(["chmod", "644", CONFIG])
    before = files_of(host)
    words = ("--url", URL, "--token-file", "/root/token", "--name", "shed")
    assert "would write" in setup(host, *words, "--print", status=(0,))
    assert files_of(host) == before
    assert "there is nobody to ask" in setup(host, *words, status=(2,))
    assert host.path(CONFIG).read_text() == OTHERS
    said = setup(host, *words, "--yes")
    assert 'name = "shed"' in said
    assert "image: bookworm" in said
    text = host.path(CONFIG).read_text()
    assert text.startswith(OTHERS)
    runner = tomllib.loads(text)["runners"][1]
    assert (runner["url"], runner["token"], runner["custom"]["run_exec"]) == (URL, TOKEN, str(TOOL))
    assert host.path(CONFIG).stat().st_mode & 0o777 == 0o600
    assert f"ExecStart={TOOL} gc\n" in host.path(f"{UNIT}.service").read_text()
    assert host.run(["systemctl", "is-enabled", "nspawn-runner-gc.timer"]).stdout == b"enabled\n"
    host.run(["systemctl", "start", "nspawn-runner-gc.service"])
    assert b"CONFIG" in host.run(["cat", "/usr/local/share/man/man8/nspawn-runner.8"]).stdout.upper()
    after = files_of(host)
    assert "has this runner already: it stays" in setup(host, *words)
    assert files_of(host) == after
    # As gitlab-runner writes the file, with what it adds.
    data = tomllib.loads(text)
    data["runners"][1]["id"] = 7
    host.path(CONFIG).write_text(toml.dumps(data))
    assert "has this runner already: it stays" in setup(host, *words)
    host.path(CONFIG).write_text(text)
    setup(host, "--undo", "--yes", status=(0,))
    assert host.path(CONFIG).read_text() == OTHERS
    assert files_of(host).splitlines()[:-1] == before.splitlines()[:-1]
    setup(host, "--undo", status=(0,))


def test_a_new_config_and_an_image_that_is_missing(host: DisposableHost) -> None:
    host.run(["rm", "-rf", "/etc/gitlab-runner"])
    host.path("/etc/nspawn-runner/tiny.yaml").write_text(
        "- hosts: all\n  vars: {nspawn_runner_chroot_extends: bookworm}\n  tasks: []\n"
    )
    setup(
        host, "--url", URL, "--token-file", "-", "--image", "tiny", "--yes", "--concurrent", "2", stdin=TOKEN.encode()
    )
    assert b"tiny" in host.run([TOOL, "chroot-list"]).stdout
    data = tomllib.loads(host.path(CONFIG).read_text())
    assert (data["concurrent"], data["runners"][0]["token"]) == (2, TOKEN)
    assert host.path("/etc/gitlab-runner").stat().st_mode & 0o777 == 0o700
    assert "with another custom: it stays" in setup(host, "--url", URL, "--token", TOKEN)
    setup(host, "--undo", "--yes", status=(0,))
    assert tomllib.loads(host.path(CONFIG).read_text()) == {"concurrent": 2}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", URL], "belong together"),
        (["--url", URL, "--token", TOKEN, "--token-file", "/root/token"], "exclude each other"),
        (["--url", URL, "--token-file", "/nowhere"], "cannot read the token"),
        (["--url", URL, "--token-file", "/dev/null"], "there is no token"),
        (["--url", URL, "--token", "two words"], "that is no token"),
        (["--image", "../x"], "cannot be an image's name"),
    ],
)
def test_mistakes_change_nothing(host: DisposableHost, words: list[str], said: str) -> None:
    before = files_of(host)
    assert said in setup(host, *words, status=(2,))
    assert files_of(host) == before


def test_a_config_that_is_broken_stays(host: DisposableHost) -> None:
    host.path("/etc/gitlab-runner").mkdir(exist_ok=True)
    host.path(CONFIG).write_text("[[runners]\n")
    assert "is not valid TOML" in setup(host, "--url", URL, "--token", TOKEN, "--yes", status=(2,))
    assert "is not valid TOML" in setup(host, "--undo", "--yes", status=(2,))
    assert host.path(CONFIG).read_text() == "[[runners]\n"
