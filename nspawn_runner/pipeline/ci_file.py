"""The pipeline in a .gitlab-ci.yml, as far as needed to run its jobs locally."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import JobError, UsageError
from . import include, job_reader, matrix, rules
from . import keywords as ci_keywords
from . import variables as ci_variables
from .ci_job import CiJob
from .event import Event
from .extends import Resolver
from .include_map import MappedFolder
from .job_reader import Surroundings
from .matrix import Instance
from .notices import Notices
from .values import Node, UnknownName, kind, wrong
from .variables import Variable

MAX_JOBS = 2000
STAGES = ("build", "test", "deploy")  # GitLab's, where the file names none


class Workflow(NamedTuple):
    """Whether ``workflow`` lets the pipeline be made, and the variables that its rules set."""

    allowed: bool = True
    variables: Mapping[str, Variable] = {}
    has_rules: bool = False


class Pipeline:
    """The merged top level of a .gitlab-ci.yml; ``jobs`` are the names of the jobs in the file, in its order.

    ``missing`` is what could not be included, ``strays`` the entries that are neither keyword nor job.
    """

    def __init__(
        self, file: str, root: Mapping[str, Node], *, missing: Sequence[str] = (), notices: Notices | None = None
    ) -> None:
        self.file = file
        self.root = root
        self.missing = tuple(missing)
        self.notices = notices or Notices()
        self.jobs = tuple(name for name, node in root.items() if _is_job(name, node))
        self.strays = {
            name: node
            for name, node in root.items()
            if not isinstance(node.value, dict) and name not in ci_keywords.GLOBAL and not name.startswith(".")
        }
        self._extended: dict[str, Node] = {}

    def job(
        self,
        name: str,
        overrides: Mapping[str, str] | None = None,
        *,
        predefined: Mapping[str, str] | None = None,
        image: str | None = None,
        event: Event | None = None,
        handed_on: Mapping[str, str] | None = None,
    ) -> CiJob:
        """Return the job ``name``, ready to run; raises JobError with file and line for a mistake.

        Variables: ``predefined`` < global < workflow's < the job's < its rules' < those that other jobs ``handed_on`` <
        ``overrides``. The last two are taken literally, as is ``image``, which replaces the file's. Only what this job
        uses is checked. Raises UsageError for an invalid override.
        """
        around = self.reader(event, predefined or {}, overrides or {}, image)
        return self.read(self.instance(name), around._replace(handed_on=handed_on or {}))

    def reader(
        self,
        event: Event | None,
        predefined: Mapping[str, str],
        given: Mapping[str, str],
        image: str | None = None,
    ) -> Surroundings:
        """Return what all jobs of a pipeline meet; raises JobError for a mistake in ``workflow``, and UsageError."""
        _check_overrides(given)
        workflow = self.workflow(event, predefined, given) if event else Workflow()
        return Surroundings(
            event, predefined, given, workflow.variables, has_workflow_rules=workflow.has_rules, image=image
        )

    def read(self, instance: Instance, around: Surroundings) -> CiJob:
        """Return the job ``instance``, ready to run; raises JobError with file and line for a mistake."""
        try:
            return job_reader.read(self.resolver(), instance, around)
        except UnknownName as error:
            raise self._explained(error) from None

    def resolver(self) -> Resolver:
        """Return a resolver of references, which keeps what earlier ones found out."""
        return Resolver(self.root, self._extended)

    def instance(self, name: str) -> Instance:
        """Return the job that is called ``name`` in the pipeline; raises JobError if there is none."""
        if name in self.jobs:
            return next(iter(self.instances_of(name)))._replace(name=name)
        for base in self.jobs:
            if name.startswith((f"{base} ", f"{base}:")):
                for instance in self.instances_of(base):
                    if instance.name == name:
                        return instance
        if name.startswith(".") and name in self.root:
            raise JobError(f'"{name}" is a hidden job, which can only be extended', advice=self._advice())
        raise JobError(f'{self.file} has no job "{name}"', advice=self._advice())

    def instances_of(self, base: str) -> list[Instance]:
        """Return the jobs of the pipeline that the job ``base`` of the file stands for; raises JobError."""
        try:
            keywords = job_reader.keywords_of(self.resolver(), base)
        except UnknownName as error:
            raise self._explained(error) from None
        return matrix.instances(base, keywords.get("parallel"))

    def stages(self) -> tuple[str, ...]:
        """Return the stages in their order, with .pre and .post; raises JobError."""
        key = next((key for key in ("stages", "types") if key in self.root and key not in self.jobs), None)
        node = self.resolver().entry(key) if key else None
        named: list[str] = list(STAGES)
        if node is not None and node.value is not None:
            if not isinstance(node.value, list) or not all(isinstance(item.value, str) for item in node.value):
                raise wrong(node, f'"{key}" must be a list of names')
            named = [str(item.value) for item in node.value]
        inner = [name for name in dict.fromkeys(named) if name not in {".pre", ".post"}]
        return (".pre", *inner, ".post")

    def workflow(self, event: Event, predefined: Mapping[str, str], given: Mapping[str, str]) -> Workflow:
        """Return what ``workflow`` says of a pipeline for ``event``; raises JobError for a mistake in it."""
        if "workflow" not in self.root or "workflow" in self.jobs:
            return Workflow()
        resolver = self.resolver()
        node = resolver.entry("workflow")
        if node.value is None:
            return Workflow()
        if not isinstance(node.value, dict):
            raise wrong(node, f'"workflow" is {kind(node)}; it must be a mapping')
        for key, part in node.value.items():
            if key not in {"rules", "name", "auto_cancel"}:
                raise wrong(part, f'"workflow" has an unknown keyword "{key}"')
        listed = node.value.get("rules")
        if listed is None or listed.value is None:
            return Workflow()
        known = {**predefined, **job_reader.texts(job_reader.root_variables(resolver)), **given}
        outcome = rules.evaluate('"workflow"', listed, event, known, rules.OF_WORKFLOW)
        return Workflow(outcome.when != "never", outcome.variables, has_rules=True)

    def _explained(self, error: UnknownName) -> JobError:
        if not self.missing:
            return error
        return JobError(
            error.what,
            facts=f"it may be in what was left out: {', '.join(self.missing)}",
            advice="give a copy of it: --include-map PREFIX=FOLDER",
        )

    def _advice(self) -> str:
        return f"jobs: {', '.join(self.jobs)}" if self.jobs else ""


def load(
    repository: str,
    file: str = ".gitlab-ci.yml",
    *,
    event: Event | None = None,
    mapped: Sequence[MappedFolder] = (),
    inputs: Mapping[str, str] | None = None,
) -> Pipeline:
    """Return the pipeline of ``file`` in the folder ``repository``, with the files it includes.

    Reads the files as they are in the folder; what is included from elsewhere comes from the ``mapped`` folders or is
    left out. ``inputs`` are texts for the file's own inputs. Raises JobError with file and line for a mistake that
    leaves no pipeline; those of single jobs are told where the job is read.
    """
    notices = Notices()
    try:
        found = include.read(repository, file, event or Event(), notices, mapped=mapped, given=inputs)
    except FileNotFoundError:
        raise JobError(
            f"there is no {file} in {repository}", advice="change to a project's folder, or name the file: --file FILE"
        ) from None
    except OSError as error:
        raise JobError(f"cannot read {file}: {error.strerror}") from None
    pipeline = Pipeline(file, found.root, missing=found.missing, notices=notices)
    if len(pipeline.jobs) > MAX_JOBS:
        raise JobError(f"{file} has more than {MAX_JOBS} jobs")
    for name, node in pipeline.strays.items():
        notices.say(f'{node.file}:{node.line}: "{name}" is no keyword, and {kind(node)} is no job')
    return pipeline


def _is_job(name: str, node: Node) -> bool:
    if not isinstance(node.value, dict) or name in ci_keywords.RESERVED or name.startswith("."):
        return False
    return name not in ci_keywords.GLOBAL or any(key in node.value for key in ci_keywords.MAKES_JOB)


def _check_overrides(overrides: Mapping[str, str]) -> None:
    for name, value in overrides.items():
        problem = ci_variables.name_problem(name)
        if problem or "\0" in value:
            raise UsageError(f"--variable: {problem or f'{name} has a NUL character'}")
