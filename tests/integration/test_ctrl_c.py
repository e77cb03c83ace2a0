"""Ctrl-C in what takes time, at several moments: status 130, one line that says so, and nothing is left."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from by_hand import TOOL, Unchanged
from disposable_host import STATE_FOLDER, DisposableHost

SECONDS = 120
TOLD = "nspawn-runner: stopped by SIGINT"
NOISE = ("Traceback", "KeyboardInterrupt", "Terminated", "nspawn-runner: this is a mistake")
PLAYBOOK = "- hosts: all\n  tasks:\n    - ansible.builtin.raw: sleep 2\n"
# Each as one types it in a shell, in a folder with a job.
CALLS = {
    "chroot-create": "chroot-create ctrl --suite bookworm",
    "chroot-clone": "chroot-clone bookworm ctrl",
    "chroot-import": "chroot-import ctrl /root/whole.tar",
    "chroot-export": "chroot-export bookworm /root/out.tar.zst",
    "chroot-login": "chroot-login bookworm -- sleep 60",
    "chroot-maintenance": "chroot-maintenance paper",
    "exec": "exec job",
    "exec of several": "exec job other --parallel 2",
    "doctor": "doctor --job",
    "gc": "gc",
}
MOMENTS = {"gc": [0.2, 0.3], "chroot-create": [0.5, 3, 12], "doctor": [0.5, 2, 4]}
USUAL = [0.3, 1, 2.5]
cut: set[str] = set()  # the verbs that were met by a signal


@pytest.fixture(scope="module")
def ready(overlay_host: DisposableHost) -> Iterator[DisposableHost]:
    """A host with what the calls need: a job, an archive, an image with a playbook; folders that stay are there."""
    host = overlay_host
    host.run(["mkdir", "-p", "/root/ctrl", "/etc/nspawn-runner"])
    host.path("/root/ctrl/.gitlab-ci.yml").write_text(
        "job: {image: bookworm, script: [sleep 60]}\nother: {image: bookworm, script: [sleep 60]}\n"
    )
    host.run([TOOL, "chroot-export", "bookworm", "/root/whole.tar"])
    host.run([TOOL, "chroot-clone", "bookworm", "paper"])
    host.path("/etc/nspawn-runner/paper.yaml").write_text(PLAYBOOK)
    host.run([TOOL, "chroot-maintenance", "paper"], check=False)
    with contextlib.suppress(subprocess.TimeoutExpired):  # the folders that stay
        host.run([TOOL, "exec", "job"], cwd="/root/ctrl", check=False, timeout=5)
    host.run([TOOL, "doctor"], check=False)
    host.run([TOOL, "gc", "--max-age", "0s"], check=False)
    yield host
    host.run(["rm", "-rf", "/root/ctrl", "/root/whole.tar", "/etc/nspawn-runner/paper.yaml"])
    host.run([TOOL, "chroot-remove", "--force", "paper"], check=False)


@pytest.mark.parametrize(("verb", "seconds"), [(verb, moment) for verb in CALLS for moment in MOMENTS.get(verb, USUAL)])
def test_ctrl_c(ready: DisposableHost, verb: str, seconds: float) -> None:
    with Unchanged(ready):
        argv = [str(TOOL), *CALLS[verb].split()]
        with ready.popen(argv, cwd="/root/ctrl", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            is_over = process.returncode is not None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            said = process.communicate(timeout=SECONDS)[1].decode()
        if is_over or process.returncode == 0:  # it ended by itself
            ready.run([TOOL, "chroot-remove", "--force", "ctrl"], check=False)
            ready.run(["rm", "-f", "/root/out.tar.zst"])
        else:
            assert process.returncode == 130, said
            # One that came before the tool was loaded ends it without a word.
            assert said == "" or said.endswith(f"{TOLD}\n"), said
            assert said.count(TOLD) <= 1
            cut.add(verb)
        assert not [word for word in NOISE if word in said], said
        left = ready.run(
            ["find", "/root", STATE_FOLDER, "-maxdepth", "1", "-name", "*out.tar*", "-o", "-name", "ctrl.*"]
        )
        assert left.stdout == b""
        assert ready.run([TOOL, "gc"]).stdout == b"nothing is left over\n"


def test_no_verb_was_too_fast() -> None:
    assert cut >= {*CALLS} - {"gc"}
