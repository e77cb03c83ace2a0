"""The user that runs a job's scripts: check that the image has it, and give it the job's folders."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import HostError, printable
from ..nspawn import calls
from .records import Record

ROOT = "root"
# Asked in the machine, since only its own systemd and libraries know all its users. systemd-run's exit status says
# little, so that it answers in words.
_GIVE = """
user=$1; shift
group=$(id -g -- "$user" 2>/dev/null) || { echo none; exit; }
mkdir -p -- "$@" 2>&1 && chown -- "$user:$group" "$@" 2>&1 && echo given
"""
_SECONDS, _MOST_BYTES = 30, 4096


def give_folders(record: Record, folders: Sequence[str]) -> None:
    """Make ``folders`` in the machine and give them to the user of its scripts.

    Raises HostError where the image has no such user, or a folder cannot be made.
    """
    said = calls.shell_answer(
        record.machine,
        _GIVE,
        record.user,
        *folders,
        label="user",
        description="nspawn-runner: folders of the user of scripts",
        properties=["Type=exec"],
        limit_bytes=_MOST_BYTES,
        seconds=_SECONDS,
    )
    answer = said.decode(errors="replace").strip()
    if answer == "given":
        return
    if answer == "none":
        raise HostError(
            f"the image {record.image} has no user {record.user}, who is to run the job's scripts",
            advice=f"make one: nspawn-runner chroot-login {record.image} -- useradd --create-home {record.user}",
        )
    raise HostError(
        f"the folders {' and '.join(folders)} of the machine cannot be given to its user {record.user}",
        facts=printable(answer.replace("\n", " / ")) or "it said nothing",
    )
