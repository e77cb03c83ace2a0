"""The settings file: what is wrong in it is told at once, with its lines; what is told fits no other file."""

import json
import os
import string
import tomllib
from pathlib import Path
from typing import Any

import pytest
from abilities import require
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from nspawn_runner.errors import HostError
from nspawn_runner.settings import mistakes, policy
from nspawn_runner.settings.load import load
from nspawn_runner.settings.parse import parse
from nspawn_runner.settings.profiles import Profile
from nspawn_runner.settings.tables import Limits, Network, Settings

FILE = "/etc/nspawn-runner/nspawn-runner.toml"

MISTAKES = """\
# nothing is wrong here
state_foldr = "/srv"
memory_max = "4G"
allowed_images = ["bookworm", "debian:sid"]

[limits]
default_image = "sid"
memory_max = \"\"\"
4 G\"\"\"
tasks_max = true
[images]
"python:*" = "a/b"
ruby = 3

[[policy]]
name = "one"
projects = [
  "a/**",
  "group",
]

[[policy]]
name = "one"
imags = ["x"]
protected = false
ceilings = { memory_max = "2G", cpus = 0 }
[policy.celings]
a = 1
"""
TOLD = """\
line 2: state_foldr: no such setting (did you mean state_folder?)
line 3: memory_max: no such setting here (memory_max stands under [limits])
line 4: allowed_images: must be a list of local images' names or shell patterns of them, not 'debian:sid'
line 7: limits.default_image: no such setting here (default_image stands above the first [table])
line 8: limits.memory_max: must be a size such as "512M", "4G" or "50%", or infinity or auto
line 10: limits.tasks_max: must be a whole number
line 12: images.python:*: must be the name of an image
line 13: images.ruby: must be a text in quotes
line 17: policy.1.projects: must be a list of paths such as "group/project", "group/*" or "group/**", not 'group'
line 24: policy.2.imags: no such setting (did you mean images?)
line 25: policy.2.protected: must be true, or be left out for any ref
line 26: policy.2.ceilings.cpus: must be a whole number above 0
line 27: policy.2.celings: no such setting (did you mean ceilings?)"""


def lines_of(content: str) -> list[str]:
    """Give the lines of the error that settings with this content are."""
    with pytest.raises(HostError) as raised:
        parse(content.encode(), FILE)
    return raised.value.lines()


def test_all_mistakes_are_told_with_their_lines() -> None:
    first, facts, last = lines_of(MISTAKES)
    assert first == f"the settings {FILE} are wrong in 13 places"
    assert facts.split("; ") == TOLD.splitlines()
    assert last == "fix the file; nothing was done"


def test_nothing_else_is_wrong_there() -> None:
    assert parse(b"# nothing\r\n\r\n[limits]\r\ntasks_max = 100\r\n", FILE) == Settings(limits=Limits(tasks_max=100))


TOGETHER = {
    "builds in the cache": ('builds_dir = "/cache/builds"', "line 1: builds_dir: must not be in cache_dir"),
    "builds are the cache": ('cache_dir = "/builds/"', "builds_dir: must not be in cache_dir"),
    "a rule beside everything": (
        '[[policy]]\nimages = ["a"]',
        'line 2: policy.1.images: has no effect while allowed_images = ["*"]',
    ),
    "a rule that gives nothing": ("[[policy]]\nrunners = [1]", "line 1: policy.1: gives nothing"),
    "no ceiling": ("[[policy]]\nceilings = {tasks_max = 16384}", "line 2: policy.1.ceilings.tasks_max: gives nothing"),
    "a low ceiling": (
        '[[policy]]\n[policy.ceilings]\nmemory_max = "1G"\n[limits]\nmemory_max = "2G"',
        "line 3: policy.1.ceilings.memory_max: gives nothing",
    ),
    "a name twice": (
        '[[policy]]\nname = "x"\nbinds = ["/a"]\n[[policy]]\nname = "x"\nbinds = ["/b"]',
        "line 5: policy.2.name: there is another rule x",
    ),
}


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "a//b", "./x", "a b", "a/", "."])
def test_a_journal_stays_in_the_project(path: str) -> None:
    assert "journal_file: must be a relative path" in lines_of(f'journal_file = "{path}"')[1]


@pytest.mark.parametrize("time", ["2 h", "h", "-1h", "2y", "1.5h", "forever", "2h30min"])
def test_what_is_no_time_to_keep_a_failed_job(time: str) -> None:
    assert "keep_failed: must be a time such as" in lines_of(f'keep_failed = "{time}"')[1]


def test_evidence_is_wished_for() -> None:
    settings = parse(b'keep_failed = "90min"\njournal_file = "logs/a.txt"', FILE)
    assert (settings.keep_failed, settings.journal_file) == ("90min", "logs/a.txt")


@pytest.mark.parametrize("kind", TOGETHER)
def test_what_does_not_go_together(kind: str) -> None:
    content, expected = TOGETHER[kind]
    assert expected in lines_of(content)[1]


def test_consequences_of_a_mistake_are_not_told() -> None:
    """Were allowed_images its default, the rule would be wrong too."""
    facts = lines_of('allowed_images = "a"\n[[policy]]\nimages = ["b"]\n')[1]
    assert facts == "line 1: allowed_images: must be a list of local images' names or shell patterns of them"


def test_rules_are_read() -> None:
    content = """
allowed_images = ["bookworm"]
default_image = "release-1"
[[policy]]
name = "release"
projects = ["group/**"]
protected = true
runners = [42]
images = ["release-*"]
profiles = ["nesting"]
binds = ["/srv/mirror"]
[policy.ceilings]
memory_max = "16G"
cpus = 8
[[policy]]
images = ["*"]
"""
    assert parse(content.encode(), FILE) == Settings(
        allowed_images=("bookworm",),
        default_image="release-1",
        policy=(
            policy.Rule(
                "release",
                projects=("group/**",),
                protected=True,
                runners=(42,),
                images=("release-*",),
                profiles=("nesting",),
                binds=("/srv/mirror",),
                ceilings=policy.Ceilings(memory_max_bytes=16 << 30, cpus=8),
            ),
            policy.Rule("2", images=("*",)),
        ),
    )


BAD_RULES = [
    "policy = 1",
    "policy = [1]",
    "policy = {}",
    *(
        f"[[policy]]\nprojects = {value}"
        for value in ("[]", '"a/b"', '["a"]', '["a//b"]', '["/a/b"]', '["a**/b"]', "[1]")
    ),
    *(f"[[policy]]\nrunners = {value}" for value in ("[]", "1", '["1"]', "[0]", "[true]", "[1.0]")),
    *(f"[[policy]]\nbinds = {value}" for value in ('["/"]', '["a"]', '["/a/../b"]', '["/a:b"]', "[1]")),
    *(f"[[policy]]\nimages = {value}" for value in ("[]", '"a"', '["a/b"]', '["a b"]', '[""]')),
    *(
        f"[[policy]]\nceilings = {value}"
        for value in ("1", '{memory_max = "50%"}', "{memory_max = 1}", "{cpus = true}")
    ),
    '[[policy]]\nname = ""',
    '[[policy]]\nname = "a\\n"',
    '[[policy]]\nprotected = "true"',
    '[[policy]]\nprofiles = ["a b"]',
]


@pytest.mark.parametrize("content", BAD_RULES)
def test_bad_rules_are_refused_for_that_alone(content: str) -> None:
    facts = lines_of(content + ("" if "[[" not in content else '\n[[policy]]\nprofiles = ["nesting"]'))[1]
    told = [text for text in facts.split("; ") if "gives nothing" not in text]
    assert len(told) == 1
    assert f"line {1 + content.count('[[')}: policy" in told[0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "folder" / "settings.toml"
    found.parent.mkdir(mode=0o755)
    found.write_text("stop_grace_seconds = 5\n")
    found.chmod(0o644)
    return found


@pytest.mark.parametrize("mode", [0o020, 0o002, 0o022])
@pytest.mark.parametrize("place", ["file", "folder", "folder of the link"])
def test_settings_that_others_may_change_are_refused(file: Path, place: str, mode: int) -> None:
    require(os.geteuid() == 0, "the file has to be root's")
    link = file.parents[1] / "links" / "settings.toml"
    link.parent.mkdir(mode=0o755)
    link.symlink_to(file)
    assert load(str(link)).stop_grace_seconds == 5
    open_one = {"file": file, "folder": file.parent, "folder of the link": link.parent}[place]
    open_one.chmod(open_one.stat().st_mode | mode)
    with pytest.raises(HostError, match="can be written by others than root") as raised:
        load(str(link))
    advice = raised.value.advice
    assert advice == f"fix it: chown root {link if place == 'file' else open_one}; chmod go-w " + advice.split()[-1]
    open_one.chmod(0o755)
    os.chown(open_one, 1000, -1)
    with pytest.raises(HostError, match="can be written by others than root"):
        load(str(link))


def test_a_size_of_very_many_digits() -> None:
    assert "tmpfs_size: must be a size" in lines_of(f'tmpfs_size = "{"9" * 5000}G"')[1]


@pytest.mark.parametrize("content", [b"a = " + b"9" * 5000, b"a = " + b"[" * 5000, b"\xff", b"a = 1\na = 2", b"a"])
def test_what_is_not_toml(content: bytes) -> None:
    with pytest.raises(HostError, match="not valid TOML"):
        parse(content, FILE)


# Any file at all gives settings or an error of at most three lines.

SOME = limits(suppress_health_check=[HealthCheck.too_slow])
MANY = limits(SOME, max_examples=2500)
WORDS = [
    *Settings._fields,
    *Limits._fields,
    *Network._fields,
    *policy.Rule._fields,
    *Profile._fields,
    *("cpus", "memory_max_bytes", "x", "python:*", "base", "/tmp"),
]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"))
VALUES = [
    *("auto", "btrfs", "4G", "50%", "infinity", "/srv", "/", "bookworm", "*", "release-*", "[", "", "10.0.0.0/20"),
    *("group/*", "**", "a/**/b", "/cache", "nspr0"),
    *("mine", "nesting", "CAP_SYSLOG", "@keyring", "-/dev/fuse", "/srv:/mnt:rw", ":::", "-", "~"),
]


def written(value: object) -> str:
    """Give a value as TOML writes it, which is JSON's way too."""
    return json.dumps(value, ensure_ascii=False)


SCALARS = (
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(VALUES) | TEXTS
).map(written) | st.sampled_from(["1979-05-27T07:32:00Z", "07:32:00", "inf", "0x1F", "'raw'", '"""a\nb"""'])
KEYS = (st.sampled_from(WORDS) | TEXTS).map(written)


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(KEYS, inner).map(" = ".join)
    one_line = st.lists(pairs, max_size=3, unique_by=lambda pair: pair.partition(" = ")[0])
    return st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]") | one_line.map(
        lambda items: f"{{ {', '.join(items)} }}"
    )


ANY_VALUE = st.recursive(SCALARS, arrays, max_leaves=4)
HEADERS = st.sampled_from(["[profiles.mine]", "[profiles.x]"]) | st.sampled_from(
    ["[limits]", "[network]", "[images]", "[[policy]]", "[policy.ceilings]", "[x]", "[a.b]"]
)
STATEMENTS = st.tuples(KEYS, ANY_VALUE).map(" = ".join) | HEADERS | st.just("# text")
FILES = st.lists(STATEMENTS, max_size=8).map("\n".join)


@MANY
@given(FILES)
def test_any_file_gives_settings_or_an_error(content: str) -> None:
    try:
        found = parse(content.encode(), FILE)
    except HostError as error:
        lines = error.lines()
        assert 1 <= len(lines) <= 3
        assert lines[0].startswith(f"the settings {FILE} are ")
        assert all(line.isprintable() for line in lines)
    else:
        assert set(found._asdict()) == set(Settings._fields)
        policy.allowance(found.allowed_images, found.policy, policy.Facts())


@SOME
@given(st.binary() | st.text(string.printable).map(str.encode))
def test_any_bytes_give_settings_or_an_error(content: bytes) -> None:
    try:
        found: object = parse(content, FILE)
    except HostError as error:
        found = error.lines()[0].startswith(f"the settings {FILE} are ")
    assert found


@SOME
@given(st.lists(st.tuples(st.sampled_from(["k{}", '"k {}"', "[t{}]", "[[array]]"]), ANY_VALUE), max_size=10))
def test_keys_are_found_in_their_lines(parts: list[tuple[str, str]]) -> None:
    """Each statement's own lines are known here, however many it takes and whatever its value looks like."""
    lines: list[str] = []
    expected: dict[str, int] = {}
    table, tables = "", 0
    for number, (form, value) in enumerate(parts):
        key = form.format(number)
        begun = len(lines) + 1
        if key == "[[array]]":
            tables += 1
            table = f"array.{tables}"
        elif key.startswith("["):
            table = key.strip("[]")
        else:
            expected[f"{table}.{key.strip(chr(34))}" if table else key.strip('"')] = begun
            key = f"{key} = {value}"
        if key.startswith("["):
            expected[table] = begun
        lines += [*key.split("\n"), ""]
    content = "\n".join(lines)
    tomllib.loads(content)
    found: dict[str, Any] = mistakes.lines_of_keys(content)
    assert {key: found.get(key) for key in expected} == expected
