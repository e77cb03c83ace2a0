"""What each stage imports: their start is paid for a dozen times in every job."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nspawn_runner import cli

CHECKOUT = Path(__file__).resolve().parents[2]
HEAVY = {"asyncio", "dataclasses", "inspect", "logging", "pathlib", "shutil", "tempfile", "toml", "typing", "yaml"}
EXPECTED = {
    "config": {
        "cli",
        "errors",
        "light_typing",
        "names",
        "settings",
        "settings.machine_settings",
        "settings.paths",
        "settings.tables",
        "commands",
        "commands.config",
        "jobs",
        "jobs.job_image",
        "host.signals",
        "gitlab",
        "gitlab.job",
        "host",
        "host.streams",
        "images",
        "images.lookup",
        "images.store",
    },
    "run": {"commands.run", "gitlab.exit_status", "host.process", "host.systemd", "machines.script", "machines.relay"},
    "prepare": {"commands.prepare", "images.lookup", "images.store", "machines.start", "machines.network"},
    "cleanup": {"commands.cleanup", "machines.stop", "machines.records"},
}


def loaded(stage: str) -> set[str]:
    """Return the names of all modules that a stage has loaded when its arguments are parsed."""
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from nspawn_runner import cli; "
        f"cli.parse([{stage!r}] + ['x'] * ({stage!r} == 'run')); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("stage", sorted(EXPECTED))
def test_stage_loads_what_it_needs_and_nothing_heavy(stage: str) -> None:
    modules = loaded(stage)
    ours = {name.removeprefix("nspawn_runner.") for name in modules if name.startswith("nspawn_runner.")}
    assert ours >= EXPECTED[stage]
    assert not HEAVY & modules
    assert stage == "prepare" or not {"settings.schema", "settings.parse"} & ours  # no settings file, no schema
    others = {f"commands.{module}" for module in cli.VERBS.values()} - {f"commands.{stage}"}
    assert not others & ours


def test_config_loads_no_more_than_it_says() -> None:
    modules = loaded("config")
    ours = {name.removeprefix("nspawn_runner.") for name in modules if name.startswith("nspawn_runner.")}
    assert ours == EXPECTED["config"]
    assert "subprocess" not in modules


def test_a_settings_file_that_is_known_loads_no_reader(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    file = tmp_path / "settings.toml"
    file.write_text('shell = "/bin/sh"\n')
    file.chmod(0o644)
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); from nspawn_runner import cli; "
        "from nspawn_runner.settings import load, paths; "
        f"load.DEFAULT_FILE, paths.RUN_FOLDER = {str(file)!r}, {str(tmp_path)!r}; "
        "assert cli.main(['config', '--id', '1']) == 0; print(*sys.modules, file=sys.stderr)"
    )
    for is_known in (False, True):
        argv = [sys.executable, "-I", "-S", "-c", code]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        assert json.loads(done.stdout)["shell"] == "sh"
        assert ({"tomllib", "typing"} & {*done.stderr.split()} == set()) is is_known
