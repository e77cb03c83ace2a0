"""What a pipeline is made for: a push, a merge request, a tag, a schedule or a person's click."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

# What a person may name → CI_PIPELINE_SOURCE: https://docs.gitlab.com/ci/jobs/job_rules/
SOURCES: Mapping[str, str] = {
    "push": "push",
    "merge_request": "merge_request_event",
    "tag": "push",
    "schedule": "schedule",
    "web": "web",
}


def _unknown(_compare_to: str) -> Sequence[str] | None:
    return None


def _no_files() -> Sequence[str]:
    return ()


class Event(NamedTuple):
    """The event, and what rules ask of it.

    ``name`` is a key of SOURCES, ``ref`` the branch or tag, ``target`` the branch that a merge request is for,
    ``variables`` are those known before there is a pipeline.
    ``changed`` returns the paths that differ from a ref, or from what was there before if that is empty; None where
    GitLab takes everything as changed. ``files`` returns the paths of the project.
    """

    name: str = "push"
    ref: str = ""
    target: str = ""
    is_tag: bool = False
    project_path: str = ""
    variables: Mapping[str, str] = {}
    changed: Callable[[str], Sequence[str] | None] = _unknown
    files: Callable[[], Sequence[str]] = _no_files

    @property
    def source(self) -> str:
        """Return CI_PIPELINE_SOURCE."""
        return SOURCES[self.name]

    def described(self) -> str:
        """Return the event for a message, such as ``push of main``."""
        what = {"merge_request": "merge request of", "tag": "push of the tag"}.get(self.name, f"{self.name} of")
        return f"{what} {self.ref}" if self.ref else self.name
