"""A [[runners]] section for gitlab-runner's config.toml that makes it use this tool."""

from __future__ import annotations

from typing import Any, NamedTuple

import toml

from ..settings import paths

# The runner waits five minutes for a stopped script before it starts the clean-up (executors/custom and common/build.go
# of gitlab-runner 12.1 to 19.4): ending a script must take less. The runner's own default is ten minutes.
GRACEFUL_KILL_SECONDS = 200
FORCE_KILL_SECONDS = 30
CONFIG_SECONDS = 60
PREPARE_SECONDS = 300
CLEANUP_SECONDS = 300


class Runner(NamedTuple):
    """A runner's own values; empty texts and zeros are left out of its section."""

    tool: str
    state_folder: str
    name: str = ""
    url: str = ""
    token: str = ""
    default_image: str = ""
    concurrent: int = 0
    limit: int = 0
    config_file: str = ""


def section(runner: Runner) -> str:
    """Return the section as TOML text for config.toml or ``gitlab-runner register --template-config``.

    Without a token, a comment takes its place.
    """
    own = {"name": runner.name, "url": runner.url, "token": runner.token, "limit": runner.limit}
    given: dict[str, Any] = {key: value for key, value in own.items() if value}
    given |= {
        "executor": "custom",
        "builds_dir": f"{runner.state_folder}/{paths.BUILDS}",
        "cache_dir": f"{runner.state_folder}/{paths.CACHES}",
        "custom": _custom(runner),
    }
    head = f"{toml.dumps({'concurrent': runner.concurrent})}\n" if runner.concurrent else ""
    text = toml.dumps({"runners": [given]})
    return head + (text if runner.token else _with_comment(text))


def _custom(runner: Runner) -> dict[str, Any]:
    options = ["--config", runner.config_file] if runner.config_file else []
    image = ["--default-image", runner.default_image] if runner.default_image else []
    return {
        "config_exec": runner.tool,
        "config_args": [*options, "config", *image],
        "config_exec_timeout": CONFIG_SECONDS,
        "prepare_exec": runner.tool,
        "prepare_args": [*options, "prepare", *image],
        "prepare_exec_timeout": PREPARE_SECONDS,
        "run_exec": runner.tool,
        "run_args": [*options, "run"],
        "cleanup_exec": runner.tool,
        "cleanup_args": [*options, "cleanup"],
        "cleanup_exec_timeout": CLEANUP_SECONDS,
        "graceful_kill_timeout": GRACEFUL_KILL_SECONDS,
        "force_kill_timeout": FORCE_KILL_SECONDS,
    }


def _with_comment(text: str) -> str:
    head, rest = text.split("\n", 1)
    return f'{head}\n# token = "…"  (from the page of the runner in GitLab; gitlab-runner register writes it)\n{rest}'
