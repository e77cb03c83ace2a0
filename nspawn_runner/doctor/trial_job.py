"""A tiny job on every backend available, each stage a process of its own as gitlab-runner calls it."""

from __future__ import annotations

import json
import os
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import HostError, printable
from ..gitlab.job import made_up_id
from ..host import files, locks, process, signals
from ..images import store
from ..jobs import job_image
from ..machines import backends
from ..settings.paths import DEFAULT_FILE, RUN_FOLDER
from . import FAILED, OK, WARNING, Check, Context, Finding, ReportLine, run

_MAIN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "__main__.py")
_STAGE_SECONDS = 300
_SCRIPT = b"""set -eu
echo kept > /root/nspawn-runner-doctor
systemctl is-system-running --wait || systemctl list-units --failed --plain --no-legend
"""
_FAILING_SCRIPT = b"grep --quiet kept /root/nspawn-runner-doctor && exit 7\n"


def results(context: Context, image_name: str) -> Iterator[ReportLine]:
    """Yield how the job went on each backend; from the image ``image_name``, or the default one, or any there is."""
    image = _image(context, image_name)
    if image is None:
        yield ReportLine("job", FAILED, f"there is no image {image_name} to run it on".replace("  ", " "),
                     f"nspawn-runner chroot-create {image_name or 'bookworm'}", "")  # fmt: skip
        return
    own = job_image.own_values(image)
    for backend in backends.for_tree(image.root):
        if backend == own.get("backend", backend):
            yield from run(_job_on(backend, image), context)


def _image(context: Context, name: str) -> store.Image | None:
    there = store.names(context.settings.state_folder)
    wanted = name or context.settings.default_image or next(iter(there), "")
    return store.find(context.settings.state_folder, wanted)


def _job_on(backend: str, image: store.Image) -> Check:
    def job(context: Context) -> Iterator[Finding]:
        began = time.monotonic()
        job_id = made_up_id()
        with _folder_of(job_id) as folder:
            _write_settings(f"{folder}/settings.toml", context.config_file, backend)
            trial = _Trial(folder, job_id)
            json.loads(trial.stage("config"))
            try:
                trial.stage("prepare", image.name)
                ready_seconds = time.monotonic() - began
                said = trial.script(_SCRIPT, status="0")
                trial.script(_FAILING_SCRIPT, status="7")
            finally:
                with signals.held():
                    trial.stage("cleanup")
        seconds = time.monotonic() - began
        text = f"image {image.name}: ready after {ready_seconds:.1f} s, gone after {seconds:.1f} s"
        state, *units = said.strip().splitlines() or [""]
        if state == "running":
            yield Finding(OK, text)
        else:
            failed = ", ".join(line.split()[0] for line in units if line.split())
            yield Finding(WARNING, f"{text}; systemd in it is {printable(state, 40)}: {printable(failed, 200)}",
                          advice=f"nspawn-runner chroot-login {image.name}, and disable those units")  # fmt: skip

    job.__name__ = f"job_on_{backend}"
    return job


@contextmanager
def _folder_of(job_id: str) -> Iterator[str]:
    """Yield a folder for the job; gc knows by its lock, held longer than the folder is there, that we live."""
    folder = f"{RUN_FOLDER}/doctor-{job_id}"
    files.make_private_folder(RUN_FOLDER)
    with locks.locked(f"{folder}.lock", what=f"the job {job_id}"):
        files.make_private_folder(folder)
        try:
            yield folder
        finally:
            with signals.held():
                files.remove_tree(folder)


def _write_settings(path: str, config_file: str | None, backend: str) -> None:
    """Write the settings that hold, but with ``backend``, and so that the job, which is nobody's, counts nowhere."""
    import toml

    file = config_file or DEFAULT_FILE
    data = tomllib.loads(files.read_head(file, 1 << 20).decode()) if os.path.exists(file) else {}
    files.write_atomically(path, toml.dumps({**data, "backend": backend, "metrics": {}}).encode())


class _Trial:
    """The calls of one job."""

    def __init__(self, folder: str, job_id: str) -> None:
        self._folder = folder
        self._id = job_id

    def stage(self, verb: str, *arguments: str) -> str:
        """Call a stage and return its standard output; raises HostError when it fails."""
        status, out, said = self._call(verb, *arguments)
        if status:
            raise HostError(f"{verb} failed: {said}", advice=f"see: journalctl --unit=nspawn-runner-run-{self._id}")
        return out

    def script(self, content: bytes, *, status: str) -> str:
        """Run a script and return its output; raises HostError unless it ended with ``status``, and that was told."""
        path = f"{self._folder}/script"
        files.write_atomically(path, content)
        code, out, said = self._call("run", path, "build_script")
        try:
            told = files.read_head(self._code_file, 8).decode().strip()
        except FileNotFoundError:
            told = str(code)
        if told != status:
            raise HostError(f"a script that ends with {status} ended with {told}: {said}",
                            advice=f"see: journalctl --unit=nspawn-runner-run-{self._id}")  # fmt: skip
        return out

    @property
    def _code_file(self) -> str:
        return f"{self._folder}/exit-code"

    def _call(self, verb: str, *arguments: str) -> tuple[int, str, str]:
        options: Sequence[str] = ["--config", f"{self._folder}/settings.toml"]
        argv = [sys.executable, "-I", "-S", _MAIN, *options, verb, "--id", self._id, *arguments]
        files.remove_file(self._code_file)
        env = {"BUILD_EXIT_CODE_FILE": self._code_file}
        done = process.run(argv, check=False, env=env, timeout_seconds=_STAGE_SECONDS)
        lines = done.stderr.decode(errors="replace").splitlines()
        said = "; ".join(line.strip().removeprefix("nspawn-runner: ") for line in lines)
        return done.returncode, done.stdout.decode(errors="replace"), said
