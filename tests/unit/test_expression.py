"""The language of rules:if, its regular expressions, and patterns of paths."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nspawn_runner.pipeline import expression
from nspawn_runner.pipeline.expression import ExpressionError
from nspawn_runner.pipeline.linear_regex import Regex
from nspawn_runner.pipeline.path_patterns import PathPattern, any_matches
from nspawn_runner.pipeline.regex_syntax import RegexError

VARIABLES = {
    "SET": "some text",
    "PATH_": "a/b/c",
    "ROOTED": "/a/b/c",
    "EMPTY": "",
    "ANCHORED": "/^some.*/",
    "PLAIN": "some text!",
    "BROKEN": "/(/",
}


# The cases follow those that GitLab states in spec/lib/gitlab/ci/pipeline/expression/statement_spec.rb and in
# https://docs.gitlab.com/ci/jobs/job_rules/#cicd-variable-expressions.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('$SET == "some text"', True),
        ("'some text' == $SET", True),
        ("$SET == null", False),
        ("$EMPTY == null", False),
        ('"" == $EMPTY', True),
        ("$EMPTY", ""),
        ("$GONE == null", True),
        ("null == $GONE", True),
        ("$SET", "some text"),
        ("$GONE", None),
        ("$SET =~ /some.*t$/", True),
        ("$SET =~ /^text/", False),
        ("$EMPTY =~ /some/", False),
        ("$GONE =~ /some/", False),
        ("$GONE !~ /some/", True),
        ("$SET =~ /SOME/i", True),
        ("$SET !~ /SOME/i", False),
        (r"$PATH_ =~ /a\/b/", True),
        (r"$ROOTED =~ /^\/a\/b\/c$/", True),
        ('$SET != "some text"', False),
        ("$SET != null", True),
        ("null != $GONE", False),
        ('$SET && "x"', "x"),
        ("$SET && $EMPTY", ""),
        ("$EMPTY && $SET", "some text"),
        ("null && $SET", None),
        ("$SET && null", None),
        ("$SET || $GONE", "some text"),
        ("$GONE || $SET", "some text"),
        ('$SET && null || $EMPTY == ""', True),
        ('$EMPTY == "" && $SET != "nope"', True),
        ("$SET =~ /some/ && $EMPTY =~ /nope/", False),
        ("$SET =~ /nope/ || $PATH_ =~ /bad/", False),
        ("(($SET))", "some text"),
        ('(($SET && null) || $EMPTY == "")', True),
        ('("a" || "b") == "a"', True),
        ('("b" == ("a" && "b"))', True),
        ('("a" == "b" || "a")', "a"),
        ('("a" == ("a" || (("1" == "1") && ("2" == "3"))))', True),
        ("$SET =~ $ANCHORED", True),
        ("$SET =~ $PLAIN", True),
        ("$PLAIN =~ $SET", False),
        ("$SET =~ $GONE", False),
        ("$SET !~ $GONE", True),
        ("true", True),
        ("\n  $SET\n  && $PATH_\n", "a/b/c"),
    ],
)
def test_values_are_gitlabs(text: str, expected: str | bool | None) -> None:
    assert expression.value(expression.parse(text), VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("$SET", True), ("$GONE", False), ("$EMPTY", False), ("$SET =~ $BROKEN", False), ("$SET !~ $BROKEN", False)],
)
def test_as_a_whole_nothing_and_an_empty_text_are_false(text: str, expected: bool) -> None:
    assert expression.is_true(expression.parse(text), VARIABLES) is expected


@pytest.mark.parametrize(
    "text",
    ["", "$A = 1", "$A ==", "== $A", "($A", "$A)", "$A $B", "A == $B", "$A =~ /(ab/", "$A =~ /a(?=b)c/", "&&",
     "$A && ||",
     "$A == 'x", "(" * 60 + "$A" + ")" * 60],
)  # fmt: skip
def test_what_is_no_expression_is_said(text: str) -> None:
    with pytest.raises(ExpressionError):
        expression.parse(text)


@given(st.text(alphabet="$AB(&|=!~)/\\'\" nulti.*+[]", max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert expression.is_true(expression.parse(text), {"A": "a", "B": "/a+/"}) in {True, False}


PATTERNS = [
    r"^v\d+\.\d+$", "a|b|", "(?:ab)+c", "[^a-c]x", "(?i)AbC", "x{2,3}y", "x{0}y", r"\bfoo\b", r"\Afoo\z", "a.c",
    "[]a]+",
    "(a(b(c)?)?)?d", r"[\w.-]+@[\w-]+", "(?P<name>a)b", r"\.", "a{,2}", "^$", "[a-", "a**", "x*?y+?", "(?i:a)b",
    r"\x41",
    "[[:digit:]]+[[:^alpha:]]", r"\pL+", "(?s).", "fo+bar?", r"a\/b", r"\Qa.b\E",
]  # fmt: skip
TEXTS = ["", "v1.20", "abababc", "dx", "xabcx", "xxy", "a foo b", "foo", "a\nc", "aac", "]]a", "me@x-y", "A", "12 ",
"É",
         "a.b"]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("text", TEXTS)
def test_expressions_find_what_pythons_find(pattern: str, text: str) -> None:
    """Where both languages have the same words; in ASCII, as RE2's classes are."""
    same = pattern.replace("[[:digit:]]", "[0-9]").replace("[[:^alpha:]]", "[^A-Za-z]").replace(r"\z", r"\Z")
    same = same.replace(r"\pL", "[A-Za-zÀ-ÿ]").replace(r"\Qa.b\E", r"a\.b")
    same = re.sub(r"\$$", r"\\Z", same)  # without the flag m only the very end
    try:
        expected = bool(re.search(same, text, re.ASCII))
    except re.error:
        with pytest.raises(RegexError):
            Regex(pattern)
        return
    if pattern == "a{,2}":  # a brace is only a character where no least number stands
        expected = "a{,2}" in text
    assert Regex(pattern).found_in(text) is expected


@given(st.text(alphabet="ab.*+?|()[]^$\\{},12-d", max_size=16), st.text(alphabet="ab1\n", max_size=8))
@settings(max_examples=600, deadline=None)
def test_any_expression_ends_in_an_answer_or_a_refusal(pattern: str, text: str) -> None:
    with contextlib.suppress(RegexError):
        assert Regex(pattern).found_in(text) in {True, False}


@pytest.mark.parametrize(
    "pattern", ["(a*)*b", "(a|a)*b", "(a|aa)+$b", "((a+)+)+b", "(.*.*.*.*.*)x", "(a?){30}a{30}b", "(x+x+)+y"]
)
def test_no_expression_takes_for_ever(pattern: str) -> None:
    started = time.monotonic()
    assert not Regex(pattern).found_in("a" * 3000)
    assert time.monotonic() - started < 20


def test_repeated_repetitions_of_nothing_end() -> None:
    started = time.monotonic()
    assert Regex("^(?:(?:(?:(?:(?:){1000}){1000}){1000}){1000}){1000}$").found_in("")
    assert Regex("(?:(?:(?:a{0}){1000}){1000}){1000}b").found_in("ab")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "pattern",
    ["((((a{100}){100}){100}){100}){100}", "a{1001}", "(" * 5000, "[a-z", "(a", "a)", "*", "a**", r"\1", "(?=a)",
     "(?<!a)b",
     "(?>a)", "\\", "[z-a]", r"\x{110000}", "[[:foo:]]", "a{2,1}", r"\p{Greek}"],
)  # fmt: skip
def test_what_the_language_lacks_and_what_is_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(RegexError):
        Regex(pattern)


# Ruby's documentation of File.fnmatch, https://docs.ruby-lang.org/en/master/File.html#method-c-fnmatch, and
# https://docs.gitlab.com/ci/yaml/#ruleschanges.
@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("Dockerfile", "Dockerfile", True),
        ("Dockerfile", "a/Dockerfile", False),
        ("docker/scripts/**/*", "docker/scripts/a/b", True),
        ("docker/scripts/**/*", "docker/scripts/a", True),
        ("**/*.md", "a.md", True),
        ("**/*.md", "x/y/a.md", True),
        ("*.md", "x/a.md", False),
        ("src/*", "src/.hidden", True),
        ("*.{py,sh}", "a.sh", True),
        ("*.{py,sh}", "a.rb", False),
        ("more_scripts/*.{rb,py,sh}", "more_scripts/x.py", True),
        ("path/with/a?b", "path/with/a/b", False),
        ("[a-c].x", "b.x", True),
        ("[!a-c].x", "b.x", False),
        ("**", "a/b", False),
        ("a/**", "a/b", True),
        ("{a,{b,c}}", "c", True),
        ("{a", "{a", True),
        ("a}", "a}", True),
        ("[a", "[a", True),
        (r"\*", "*", True),
        (r"\*", "a", False),
        ("**/*", "a/b/c", True),
        ("a.b", "axb", False),
        ("a+(b)", "a+(b)", True),
    ],
)
def test_patterns_of_paths_are_rubys(pattern: str, path: str, expected: bool) -> None:
    assert PathPattern(pattern).matches(path) is expected


def test_a_pattern_of_artifacts_takes_what_is_in_a_folder() -> None:
    assert PathPattern("out", below=True).matches("out/a/b")
    assert PathPattern("*/out", below=True).matches("x/out/a")
    assert not PathPattern("out", below=True).matches("outer/a")


def test_many_comparisons_count_as_a_match() -> None:
    patterns = [PathPattern("nothing")]
    assert not any_matches(patterns, ["a"] * 10, 10)
    assert any_matches(patterns, ["a"] * 11, 10)


@given(st.text(alphabet="ab/*?[]{},\\!-", max_size=14), st.text(alphabet="ab/", max_size=8))
@settings(max_examples=400, deadline=None)
def test_any_pattern_of_paths_ends_in_an_answer_or_a_refusal(pattern: str, path: str) -> None:
    with contextlib.suppress(RegexError):
        assert PathPattern(pattern).matches(path) in {True, False}
