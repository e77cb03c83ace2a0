"""The rooms of the code: imports go one way, one door to child processes, and what a stage loads."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "nspawn_runner"
# Each layer may import those after it; the rooms of one layer do not import each other.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["commands"],
    ["maintenance", "doctor"],
    ["jobs"],
    ["gitlab", "pipeline", "images", "machines"],
    ["nspawn"],
    ["settings"],
    ["host"],
    ["output"],
    ["names", "errors"],
    ["light_typing"],
]
RANK = {room: number for number, layer in enumerate(LAYERS) for room in layer}


def imported_rooms(path: Path) -> set[str]:
    """Return the rooms of the package that a module imports, wherever in the module it does."""
    parts = ("nspawn_runner", *path.relative_to(PACKAGE).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            module = [*base[1:], *(node.module or "").split(".")] if node.module else [*base[1:]]
            found |= {module[0]} if module and module[0] else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nspawn_runner."):
            found.add(str(node.module).split(".")[1])
    return {room for room in found if room in RANK}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def test_there_is_something_to_check() -> None:
    assert len(modules()) > 20
    assert imported_rooms(PACKAGE / "commands" / "exec_job.py") >= {"pipeline", "jobs", "host"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    climbs = {room for room in imported_rooms(path) if room != own and RANK[room] <= RANK[own]}
    climbs -= {"names", "errors"} if own in {"names", "errors"} else set()
    assert not climbs, f"{path} imports {climbs}"


def test_one_door_to_child_processes() -> None:
    users = [path for path in modules() if "import subprocess" in path.read_text()]
    assert [path.relative_to(PACKAGE).as_posix() for path in users] == ["host/process.py"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 330
