"""Find the playbooks of images and read their variables without running anything."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import HostError
from ...names import is_image_name
from ...settings import paths

if TYPE_CHECKING:
    import yaml

FOLDER = paths.SETTINGS_FOLDER
PREFIX = "nspawn_runner_"
# They decide where tasks run and would override the inventory.
WHERE = {"ansible_connection", "ansible_host", "nspawn_target", "ansible_nspawn_target"}
OWNER = 0  # root's: only root's playbooks run as root
_ENDINGS = (".yaml", ".yml")


class Playbook(NamedTuple):
    """The path of the playbook of the image ``image``."""

    image: str
    path: str


class Value(NamedTuple):
    """A variable's value, and the number of its line, counted from 1."""

    value: Any
    line: int


def find_all(state_folder: str) -> tuple[dict[str, Playbook], list[str]]:
    """Return the playbooks by their image's name, and a note for each one that was ignored."""
    found: dict[str, Playbook] = {}
    notes = []
    for path in [*_files(FOLDER), *_files(state_folder)]:
        image = os.path.splitext(os.path.basename(path))[0]
        if not is_image_name(image):
            notes.append(f"{path} is left out: {image!r} cannot be an image's name")
        elif image in found:
            notes.append(f"{path} is left out: {found[image].path} comes first")
        else:
            found[image] = Playbook(image, path)
    return dict(sorted(found.items())), notes


class NoPlaybookError(HostError):
    """The file is not a list of plays; other files may lie beside playbooks."""


def variables(playbook: Playbook) -> dict[str, Value]:
    """Return the first play's ``vars`` that are our variables or decide where tasks run.

    Ignores the rest of the file. Raises HostError when the file cannot be read, or when anyone but root can write it,
    because it defines what runs as root; NoPlaybookError when it is not a list of plays.
    """
    try:
        import yaml
    except ImportError:
        raise HostError("Python cannot read YAML", advice="install it: apt install python3-yaml") from None

    try:
        with open(playbook.path, "rb") as file:
            _check_owner(os.fstat(file.fileno()), playbook.path)
            plays = _plays(yaml.compose(file, Loader=yaml.SafeLoader))
        return _own_variables(playbook.path, plays[0]) if plays else {}
    except OSError as error:
        raise _unreadable(playbook, error) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise HostError(_yaml_problem(playbook.path, error)) from None
    except TypeError:
        raise NoPlaybookError(f"{playbook.path}:1: a playbook is a list of plays") from None


def digest(playbook: Playbook) -> str:
    """Return the SHA-256 of the playbook's text; raises HostError when it cannot be read."""
    from hashlib import file_digest

    try:
        with open(playbook.path, "rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(playbook, error) from None


def _unreadable(playbook: Playbook, error: OSError) -> HostError:
    return HostError(f"cannot read the playbook {playbook.path}: {error.strerror}")


def _plays(top: yaml.Node | None) -> list[yaml.MappingNode]:
    """Return the plays in ``top``; raises TypeError if it holds anything else."""
    import yaml

    if not isinstance(top, yaml.SequenceNode):
        raise TypeError
    for play in top.value:
        keys = {key.value for key, _ in play.value} if isinstance(play, yaml.MappingNode) else set()
        if not any(key in {"hosts", "import_playbook"} or str(key).endswith(".import_playbook") for key in keys):
            raise TypeError
    return list(top.value)


def _own_variables(path: str, play: yaml.MappingNode) -> dict[str, Value]:
    import yaml

    node = next((value for key, value in play.value if key.value == "vars"), None)
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return {}
    loader = yaml.SafeLoader("")
    maps = node.value if isinstance(node, yaml.SequenceNode) else [node]
    found = {}
    for each in maps:
        if not isinstance(each, yaml.MappingNode):
            raise HostError(f"{path}:{node.start_mark.line + 1}: vars must be a mapping")
        loader.flatten_mapping(each)  # what "<<" brings in
        for key, value in each.value:
            name = str(key.value)
            if name.startswith(PREFIX) or name in WHERE:
                found[name] = Value(_constructed(loader, value), key.start_mark.line + 1)
    return found


def _constructed(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """Return the node's plain value; None, which no variable can have, for what only Ansible understands."""
    import yaml

    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _files(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    # .yaml before .yml
    chosen = sorted(name for name in names if name.endswith(_ENDINGS) and not name.startswith("."))
    return [path for name in chosen if os.path.isfile(path := os.path.join(folder, name))]


def _check_owner(status: os.stat_result, path: str) -> None:
    folders = dict.fromkeys([os.path.dirname(path), os.path.dirname(os.path.realpath(path))])
    for each, what in ((status, path), *((os.stat(folder), folder) for folder in folders)):
        if each.st_uid != OWNER or stat.S_IMODE(each.st_mode) & 0o022:
            raise HostError(
                f"{what} can be written by others than root, and defines what runs as root",
                advice=f"fix it: chown root {what}; chmod go-w {what}",
            )


def _yaml_problem(path: str, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else 1
    return f"{path}:{line}: not valid YAML: {getattr(error, 'problem', None) or error}"


def in_order(parents: Mapping[str, str]) -> list[str]:
    """Return the keys of ``parents`` (image → parent, or empty), each after its parent, otherwise by name.

    Ignores a parent that is not a key itself. Raises HostError when images are each other's parents.
    """
    done: list[str] = []

    def add(name: str, children: Sequence[str]) -> None:
        if name in children:
            circle = " extends ".join([*children[children.index(name) :], name])
            raise HostError(f"images cannot be each other's parents: {circle}", advice="change one of their parents")
        if name in parents and name not in done:
            add(parents[name], [*children, name])
            done.append(name)

    for name in sorted(parents):
        add(name, [])
    return done


def close_to(word: str, known: Collection[str]) -> str:
    """Return the word of ``known`` that ``word`` may misspell, or an empty string."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, known, n=1, cutoff=0.7)), "")
