"""gitlab-runner: its program, its service, and its config.toml. No token is ever shown."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import HostError, printable
from ..gitlab import config_toml, installed_runner
from ..gitlab.installed_runner import CONFIG_FILE
from ..host import process
from ..images import store
from . import Context, Finding, failed, ok, warning

_DROP_IN = "/etc/systemd/system/gitlab-runner.service.d"
_AS_ROOT = (
    f"mkdir --parents {_DROP_IN}; printf '[Service]\\nUser=root\\n' > {_DROP_IN}/root.conf; "
    "systemctl daemon-reload; systemctl restart gitlab-runner"
)
_INSTALL = "see https://docs.gitlab.com/runner/install/linux-repository/"
# JOB_RESPONSE_FILE, by which no job can pass for another one, came with 14.1; exit_codes of allow_failure with 17.9.
_OLDEST, _BETTER = (14, 1), (17, 9)
_STAGES = ("config", "prepare", "run", "cleanup")
# The runner's own ways to end a job leave this long before it starts the clean-up beside a running script.
_LONGEST_END_SECONDS = 300
_SHORTEST_SECONDS = {"config_exec_timeout": 10, "prepare_exec_timeout": 120, "cleanup_exec_timeout": 130}
_MOST_BYTES = 4 << 20


def gitlab_runner(context: Context) -> Iterator[Finding]:
    """gitlab-runner is installed, new enough, and runs as root."""
    program = find_program(context)
    if not program:
        wanted = context.settings.gitlab_runner
        if not wanted:
            yield ok("is not installed, and the settings want none")
        elif wanted != "auto":
            yield failed(f"gitlab_runner in the settings: {wanted} cannot be run", advice="correct the path")
        else:
            yield warning("gitlab-runner is not installed: only exec and calls by hand run jobs", advice=_INSTALL)
        return
    said = process.run([program, "--version"], check=False, timeout_seconds=60).stdout.decode(errors="replace")
    found = re.search(r"Version:\s+v?(\d+)\.(\d+)", said)
    version = (int(found[1]), int(found[2])) if found else _BETTER
    words = ".".join(map(str, version)) if found else "of an unknown version"
    upgrade = "apt update; apt install --only-upgrade gitlab-runner"
    if version < _OLDEST:
        yield failed(f"gitlab-runner {words} lets a job pass for another one", upgrade)
    elif version < _BETTER:
        yield warning(f"gitlab-runner {words} loses the exit status of jobs", upgrade)
    else:
        yield ok(f"gitlab-runner {words}")


def find_program(context: Context) -> str:
    """Return the path of the host's gitlab-runner, or nothing."""
    program = installed_runner.program(context.settings.gitlab_runner or "auto")
    return program if os.access(program, os.X_OK) else ""


def service(context: Context) -> Iterator[Finding]:
    """gitlab-runner's service is up, as root."""
    if not find_program(context):
        return
    names = "LoadState,ActiveState,User"
    shown = process.run(["systemctl", "show", f"--property={names}", "gitlab-runner.service"], check=False).stdout
    state = dict(line.split("=", 1) for line in shown.decode(errors="replace").splitlines() if "=" in line)
    if state.get("LoadState") != "loaded":
        yield warning("gitlab-runner is not a service here", "gitlab-runner install; gitlab-runner start")
        return
    user = state.get("User", "")
    if user not in {"", "root", "0"}:
        yield failed(
            f"gitlab-runner runs as {printable(user, 40)}, who can start no machines",
            _AS_ROOT,
        )
    elif state.get("ActiveState") != "active":
        yield failed(f"gitlab-runner is {state.get('ActiveState')}", "systemctl enable --now gitlab-runner")
    else:
        yield ok("gitlab-runner is up, as root")


def runner_configuration(context: Context) -> Iterator[Finding]:
    """config.toml has a runner that calls us for all stages, with time-outs that leave us the time we need."""
    if not find_program(context):
        return
    content = _read()
    if content is None:
        register = "gitlab-runner register; nspawn-runner toml prints the section for it"
        yield warning(f"there is no {CONFIG_FILE}", advice=register)
        return
    try:
        data = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        yield failed(f"{CONFIG_FILE} is not valid TOML: {error}", advice=f"correct {CONFIG_FILE}")
        return
    if os.stat(CONFIG_FILE).st_mode & 0o044:
        yield warning(f"{CONFIG_FILE}, which holds tokens, can be read by others", f"chmod 600 {CONFIG_FILE}")
    ours = [runner for runner in _tables(data.get("runners")) if runner.get("executor") == "custom"]
    ours = [runner for runner in ours if any(_is_ours(runner, stage) for stage in _STAGES)]
    if not ours:
        yield warning(f"no runner of {CONFIG_FILE} calls nspawn-runner", f"nspawn-runner toml >> {CONFIG_FILE}")
    for runner in ours:
        name = printable(str(runner.get("name") or "without a name"), 60)
        problems = [*_problems(runner, context)]
        yield from (failed(f"the runner {name}: {text}", advice=_correct()) for text in problems)
        if not problems:
            yield ok(f"the runner {name} calls us; {data.get('concurrent', 1)} jobs at a time")


def machines_at_once() -> int:
    """Return how many machines there may be at once by config.toml; 10 where it does not say."""
    try:
        return installed_runner.concurrent({}, unsaid=10)
    except HostError:
        return 10


def _read() -> bytes | None:
    try:
        with open(CONFIG_FILE, "rb") as file:
            return file.read(_MOST_BYTES)
    except FileNotFoundError:
        return None


def _tables(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _custom(runner: Mapping[str, Any]) -> Mapping[str, Any]:
    custom = runner.get("custom")
    return custom if isinstance(custom, dict) else {}


def _is_ours(runner: Mapping[str, Any], stage: str) -> bool:
    return os.path.basename(str(_custom(runner).get(f"{stage}_exec", ""))) == "nspawn-runner"


def _problems(runner: Mapping[str, Any], context: Context) -> Iterator[str]:
    custom = _custom(runner)
    for stage in _STAGES:
        program = str(custom.get(f"{stage}_exec", ""))
        arguments = custom.get(f"{stage}_args")
        words = arguments if isinstance(arguments, list) else []
        if not program or (not _is_ours(runner, stage)):
            yield f"{stage}_exec is not nspawn-runner"
        elif not program.startswith("/") or not os.access(program, os.X_OK):
            yield f"{stage}_exec: there is no program {printable(program, 100)}"
        elif stage not in words and not (stage == "config" and "gitlab-config" in words):
            yield f"{stage}_args does not say {stage}"
        if "--default-image" in words[:-1]:
            image = str(words[words.index("--default-image") + 1])
            if image not in store.names(context.settings.state_folder):
                yield f"{stage}_args: there is no image {printable(image, 60)}"
    yield from _bad_times(custom, context.settings.stop_grace_seconds)


def _bad_times(custom: Mapping[str, Any], grace_seconds: int) -> Iterator[str]:
    for key, least in _SHORTEST_SECONDS.items():
        value = custom.get(key)
        if isinstance(value, int) and value < least:
            yield f"{key} is {value} s: at least {least} s are needed"
    # gitlab-runner's defaults are ten minutes and ten seconds (docs.gitlab.com/runner/executors/custom).
    graceful, force = (custom.get(f"{name}_kill_timeout", usual) for name, usual in (("graceful", 600), ("force", 10)))
    if not isinstance(graceful, int) or not isinstance(force, int):
        return
    if graceful + force > _LONGEST_END_SECONDS:
        yield f"graceful_kill_timeout and force_kill_timeout are {graceful + force} s: at most {_LONGEST_END_SECONDS} s"
    if graceful < grace_seconds + 5:
        yield f"graceful_kill_timeout is {graceful} s, less than stop_grace_seconds in our settings and 5 s"


def _correct() -> str:
    usual = f"graceful_kill_timeout = {config_toml.GRACEFUL_KILL_SECONDS}"
    return f"correct {CONFIG_FILE}: nspawn-runner toml shows how it should be ({usual} …)"


CHECKS = (gitlab_runner, service, runner_configuration)
