"""The rooms of the code: imports go one way, one door to child processes, and what a stage loads."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from nspawn_runner import cli

PACKAGE = Path(__file__).resolve().parents[2] / "nspawn_runner"
# Each layer may import those after it; the rooms of one layer do not import each other.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["commands"],
    ["installation"],
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
    ours = (path for path in PACKAGE.rglob("*.py") if path.parent.name != "inside")  # what runs in machines alone
    return sorted(path for path in ours if path.name != "__init__.py" or path.parent != PACKAGE)


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
    # A table with a row for each setting is long by nature.
    most = 420 if path.name == "schema.py" else 330
    assert len(path.read_text().splitlines()) <= most


def name(path: Path) -> str:
    """Return the name of a module below the package; of a package's own, that of its folder."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the names of the package's modules that a module loads; not those that only types need."""
    tree = ast.parse(path.read_text())
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_types = {id(node) for part in typing for node in ast.walk(part)}
    folder = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in for_types:
            base = [*folder[: len(folder) - node.level + 1], *filter(None, [node.module])]
            for alias in node.names:
                deeper = PACKAGE.joinpath(*base, alias.name)
                is_module = deeper.with_suffix(".py").exists() or deeper.is_dir()
                yield ".".join([*base, alias.name] if is_module else base)


def test_there_is_no_circle() -> None:
    """Not in a room either; a package's own module comes with each of its modules, which is none."""
    graph = {name(path): {each for each in imported_modules(path) if each != name(path)} for path in modules()}
    TopologicalSorter(graph).prepare()


def test_commands_are_the_verbs() -> None:
    there = {path.stem for path in modules() if path.parent.name == "commands"} - {"__init__"}
    assert there == {*cli.VERBS.values(), "complete", "join", "reap"}
    for path in (PACKAGE / "commands").glob("*.py"):
        assert not {each for each in imported_modules(path) if each.startswith("commands.")}, path


def test_no_name_stands_twice() -> None:
    """Of modules and classes; but doctor is a verb and a room, and nspawn our connection's name for Ansible."""
    count = Counter(path.parent.name if path.stem == "__init__" else path.stem for path in modules())
    assert {each for each, number in count.items() if number > 1} == {"doctor", "nspawn"}
    bodies = [ast.parse(path.read_text()).body for path in modules()]
    classes = Counter(each.name for body in bodies for each in body if isinstance(each, ast.ClassDef))
    assert [each for each, number in classes.items() if number > 1 and not each.startswith("_")] == []


@pytest.mark.parametrize(
    ("what", "allowed"),
    [
        ('"systemd-nspawn"', {"nspawn", "machines.backends", "host.process", "doctor.programs"}),
        ("--machine=", {"nspawn", "machines.backends"}),
        ('backend == "', {"machines.backends"}),
        ("backend in {", {"machines.backends"}),
        ("sys.stderr", {"output", "cli", "host.streams", "host.process", "images.progress", "images.archive.unpack",
                        "maintenance.trial_machines"}),
        ("import ctypes", {"host.system_calls", "machines.launcher"}),
        ("0x70000000", {"nspawn.uid_ranges"}),
        ('"/run/nspawn-runner', {"settings.paths"}),
        ('"/var/lib/nspawn-runner', {"settings.paths"}),
        ('"/etc/nspawn-runner', {"settings.paths"}),
        ('".generations', {"settings.paths"}),
    ],
)  # fmt: skip
def test_each_fact_has_its_place(what: str, allowed: set[str]) -> None:
    there = [name(path) for path in modules() if what in path.read_text()]
    assert [each for each in there if not any(each == place or each.startswith(f"{place}.") for place in allowed)] == []
