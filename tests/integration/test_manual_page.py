"""What the manual page says of JSON and of exit statuses is what a real host gives, all of it."""

import argparse
import json
import re
from typing import Any

import pytest
from by_hand import TOOL, Job, write
from disposable_host import CHECKOUT, STATE_FOLDER, DisposableHost

from nspawn_runner import cli

PAGE = (CHECKOUT / "docs/nspawn-runner.8").read_text().replace("\\-", "-")
PROJECT = "/root/paper"
PLAYBOOK = "- hosts: all\n  tasks: []\n"


def section(name: str) -> str:
    return PAGE.partition(f"\n.SH {name}\n")[2].partition("\n.SH ")[0]


def documented() -> dict[str, list[str]]:
    """Give verb → fields."""
    parts = re.split(r"^\.TP\n\.B (\S+)\n", section("JSON"), flags=re.MULTILINE)
    found = zip(parts[1::2], parts[2::2], strict=True)
    return {verb: re.findall(r"^\.IR? (\w+)", text, re.MULTILINE) for verb, text in found}


def verbs_with_json() -> set[str]:
    found = set()
    for verb in cli.VERBS:
        parser = argparse.ArgumentParser()
        cli._command(verb).add_arguments(parser)
        if "--json" in parser._option_string_actions:
            found.add(verb)
    return found


def test_every_verb_with_json_is_there() -> None:
    assert set(documented()) == verbs_with_json()


@pytest.fixture(scope="module")
def printed(overlay_host: DisposableHost) -> dict[str, list[dict[str, Any]]]:
    """What each verb prints where there is something to tell."""
    host = overlay_host
    leftover = f"{STATE_FOLDER}/.overlays/run-77"
    host.run(["mkdir", "-p", "/etc/nspawn-runner", f"{leftover}/upper", PROJECT])
    host.path(f"{PROJECT}/.gitlab-ci.yml").write_text("a: {script: x}\n")
    host.path("/etc/nspawn-runner/paper.yaml").write_text(PLAYBOOK)
    found = {}
    try:
        with Job(host) as job:
            job.prepare()
            for verb in sorted(documented()):
                dry = ["--dry-run"] if verb == "chroot-maintenance" else []
                done = host.run([TOOL, verb, "--json", *dry], cwd=PROJECT, check=False)
                assert done.returncode in ({0, 1, 2} if verb == "doctor" else {0}), done.stderr.decode()
                found[verb] = json.loads(done.stdout)
    finally:
        host.run(["rm", "-rf", "/etc/nspawn-runner/paper.yaml", leftover])
    return found


@pytest.mark.parametrize("verb", documented())
def test_fields_are_those_that_are_printed(printed: dict[str, list[dict[str, Any]]], verb: str) -> None:
    assert printed[verb]
    for row in printed[verb]:
        assert list(row) == documented()[verb]


def test_what_config_prints_is_one_object(overlay_host: DisposableHost) -> None:
    assert isinstance(json.loads(overlay_host.run([TOOL, "config", "--id", "1"]).stdout), dict)


WORD = "no-such-command"


def test_statuses_are_those_that_are_told(overlay_host: DisposableHost) -> None:
    """Of what every host can show; signals, gc and doctor have tests of their own."""

    def status(*words: str) -> int:
        return overlay_host.run([TOOL, *words], check=False).returncode

    broken = 'state_folder = "/root/broken'
    with Job(overlay_host) as job:
        job.prepare()
        seen = {
            "success": status("list"),
            "job": status("prepare", "--id", "9", "no-such-image"),
            "script": job.script("exit 42", env={"BUILD_FAILURE_EXIT_CODE": ""}).status,
            "host": status("chroot-remove", "no-such-image"),
            "settings": status("--config", write(overlay_host, broken), "list"),
            "usage": status("lisst"),
            "login": status("login", job.id, "--", WORD),
            "chroot-login": status("chroot-login", "bookworm", "--", WORD),
            "maintenance": status("chroot-maintenance", "no-such-playbook"),
        }
    assert seen == {
        "success": 0, "job": 1, "script": 1, "host": 2, "settings": 2, "usage": 2,
        "login": 127, "chroot-login": 1, "maintenance": 2,
    }  # fmt: skip
