"""Policy: rules only give, whoever may not be known gets what everybody gets."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from nspawn_runner.errors import JobError
from nspawn_runner.gitlab.job import Job
from nspawn_runner.jobs.permission import check_image, facts
from nspawn_runner.settings.policy import (
    Allowance,
    Ceilings,
    Facts,
    Rule,
    allowance,
    gives_image,
    project_matches,
    unmet,
)
from nspawn_runner.settings.quantities import size_bytes
from nspawn_runner.settings.tables import Settings

FILE = "/etc/nspawn-runner/nspawn-runner.toml"
RELEASE = Rule("release", projects=("group/**",), protected=True, images=("release-*",))
BUILDERS = Rule("3", runners=(42,), images=("builder",))
SETTINGS = Settings(allowed_images=("bookworm", "web*"), policy=(RELEASE, BUILDERS))


@pytest.mark.parametrize(
    ("project", "glob", "matches"),
    [
        ("group/project", "group/project", True),
        ("group/project", "group/*", True),
        ("group/project", "*/project", True),
        ("group/project", "group/proj?ct", True),
        ("group/project", "group/**", True),
        ("group/project", "**", True),
        ("group/project", "**/project", True),
        ("group/sub/project", "group/**", True),
        ("group/sub/deep/project", "group/**/project", True),
        ("group/project", "group/**/project", True),
        ("group/sub/project", "group/*", False),
        ("group/sub/project", "*/project", False),
        ("groups/project", "group/**", False),
        ("my/group/project", "group/**", False),
        ("group/project2", "group/project", False),
        ("Group/project", "group/*", False),
        ("group/project\n", "group/project", False),
    ],
)
def test_globs_of_projects(project: str, glob: str, matches: bool) -> None:
    assert project_matches(project, glob) is matches


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (Facts("group/x", True, 1), ""),
        (Facts("group/x", True, None), ""),
        (Facts("group/x", False, 1), "protected refs"),
        (Facts("group/x", None, 1), "protected refs"),
        (Facts("other/x", True, 1), "other projects"),
        (Facts(None, True, 1), "other projects"),
        (Facts(), "other projects"),
    ],
)
def test_all_of_a_rule_has_to_fit(known: Facts, expected: str) -> None:
    assert unmet(RELEASE, known) == expected


def test_no_glob_fits_an_unknown_project() -> None:
    assert unmet(Rule("all", projects=("**",)), Facts()) == "other projects"
    assert unmet(Rule("all", projects=("**",)), Facts(project="")) == "other projects"


def test_rules_without_conditions_need_no_facts() -> None:
    assert unmet(Rule("all"), Facts()) == ""


def test_what_fits_is_added_up() -> None:
    rules = [
        Rule("1", images=("a",), profiles=("nesting",), ceilings=Ceilings(memory_max_bytes=1, tasks_max=5)),
        Rule("2", images=("b",), binds=("/srv",), ceilings=Ceilings(memory_max_bytes=2, cpus=3)),
        Rule("3", runners=(9,), images=("c",), ceilings=Ceilings(runtime_max_seconds=7)),
    ]
    assert allowance(["x"], rules, Facts()) == Allowance(
        ("x", "a", "b"), ("default", "nesting"), ("/srv",), Ceilings(memory_max_bytes=2, cpus=3, tasks_max=5)
    )
    assert allowance(["*"], [], Facts()) == Allowance(("*",), ("default",), (), Ceilings())


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("2K", 2048), ("3M", 3 << 20), ("4G", 4 << 30), ("1T", 1 << 40)]
    + [(text, None) for text in ("", "G", "50%", "infinity", "-1", "1.5G", "4g", "١", "9" * 20, None, 4)],
)
def test_sizes(text: object, size: int | None) -> None:
    assert size_bytes(text) == size


NAMES = st.sampled_from(["a", "b", "c"])
PATTERNS = st.lists(st.sampled_from(["a", "b", "*", "?", "[ab]", "[", "**", "a*"]), max_size=2).map(tuple)
PARTS = st.sampled_from(["a", "b", "*", "**", "?"])
GLOBS = st.lists(st.lists(PARTS, min_size=1, max_size=4).map("/".join), max_size=2).map(tuple)
AMOUNTS = st.none() | st.integers(1, 5)
RULES = st.builds(
    Rule,
    name=NAMES,
    projects=GLOBS,
    protected=st.booleans(),
    runners=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    images=PATTERNS,
    profiles=st.lists(NAMES, max_size=2).map(tuple),
    binds=st.lists(NAMES, max_size=2).map(tuple),
    ceilings=st.builds(Ceilings, *[AMOUNTS] * len(Ceilings._fields)),
)
PATHS = st.lists(NAMES, min_size=2, max_size=4).map("/".join)
KNOWN = st.builds(Facts, st.none() | PATHS, st.none() | st.booleans(), st.none() | st.integers(1, 4))
MANY = limits(max_examples=300, suppress_health_check=[HealthCheck.too_slow])


def within(less: Allowance, more: Allowance) -> bool:
    """Tell whether ``less`` gives nothing that ``more`` does not."""
    lists = all(set(less[kind]) <= set(more[kind]) for kind in range(3))
    return lists and all((one or 0) <= (other or 0) for one, other in zip(less.ceilings, more.ceilings, strict=True))


@MANY
@given(PATTERNS, st.lists(RULES, max_size=4), KNOWN, RULES)
def test_a_rule_takes_nothing_away(images: tuple[str, ...], rules: list[Rule], known: Facts, added: Rule) -> None:
    assert within(allowance(images, rules, known), allowance(images, [*rules, added], known))


@MANY
@given(PATTERNS, st.lists(RULES, max_size=4), KNOWN)
def test_who_is_not_known_gains_nothing(images: tuple[str, ...], rules: list[Rule], known: Facts) -> None:
    nobody = allowance(images, rules, Facts())
    assert within(nobody, allowance(images, rules, known))
    free = [rule for rule in rules if not (rule.projects or rule.protected or rule.runners)]
    assert nobody == allowance(images, free, known)


@MANY
@given(st.lists(RULES, max_size=4).flatmap(lambda rules: st.tuples(st.just(rules), st.permutations(rules))), KNOWN)
def test_the_order_of_rules_does_not_count(rules: tuple[list[Rule], Sequence[Rule]], known: Facts) -> None:
    one, other = (allowance((), order, known) for order in rules)
    assert within(one, other)
    assert within(other, one)


@given(PATTERNS, NAMES)
def test_patterns_of_images(patterns: tuple[str, ...], image: str) -> None:
    simple = {"*", "**", "?", image} | ({"a*"} if image == "a" else set()) | ({"[ab]"} if image in "ab" else set())
    assert gives_image(patterns, image) is bool(simple & set(patterns))


# The refusal of an image.


def trusted(**known: object) -> Job:
    return Job("1", "gitlab.example.com", trusted=True)._replace(**known)  # type: ignore[arg-type]


def refusal(job: Job, image: str, asked: str = "") -> list[str]:
    with pytest.raises(JobError) as raised:
        check_image(job, image, asked or image, SETTINGS, FILE)
    return raised.value.lines()


def test_facts_of_a_job_that_may_have_made_them_up_do_not_count() -> None:
    assert facts(Job("1", project_path="group/x", protected=True, runner=42)) == Facts()
    assert facts(trusted(project_path="group/x", protected=True, runner=42)) == Facts("group/x", True, 42)
    assert facts(trusted()) == Facts(None, False, None)


@pytest.mark.parametrize("image", ["bookworm", "web", "web-2"])
def test_what_everybody_may(image: str) -> None:
    check_image(Job("1"), image, image, SETTINGS, FILE)


def test_what_a_rule_gives() -> None:
    check_image(trusted(project_path="group/x", protected=True), "release-1", "release-1", SETTINGS, FILE)
    check_image(trusted(runner=42), "builder", "builder", SETTINGS, FILE)


def test_without_rules_every_image_is_allowed() -> None:
    check_image(Job("1"), "any", "any", Settings(), FILE)


def test_refusal_names_file_rule_and_what_the_name_means() -> None:
    lines = refusal(trusted(project_path="group/x"), "release-1", "registry.example.com/release-1:3\x1b[2J")
    assert lines == [
        FILE + " does not let this job use the image release-1, which 'registry.example.com/release-1:3\\x1b[2J' means",
        "rule release gives it to protected refs; it may use: none",
        "use one of those, or have the admin change allowed_images or [[policy]]",
    ]
    assert "rule 3 gives it to other runners" in refusal(trusted(), "builder")[1]
    assert "neither allowed_images nor a rule gives it to anybody" in refusal(trusted(), "sid")[1]


def test_refusal_says_what_is_not_known() -> None:
    assert "gitlab-runner before 14.1 does not say for sure whose job it is" in refusal(Job("1"), "release-1")[1]
    assert "its variables set CI_PROJECT_PATH" in refusal(trusted(protected=True), "release-1")[1]
