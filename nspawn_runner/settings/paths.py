"""Names of all our folders on a host, and who may enter the state folder."""

from __future__ import annotations

import os

from ..errors import HostError

SETTINGS_FOLDER = "/etc/nspawn-runner"  # the settings and the images' playbooks
DEFAULT_FILE = f"{SETTINGS_FOLDER}/nspawn-runner.toml"
STATE_FOLDER = "/var/lib/nspawn-runner"  # unless the settings name another
LOG_FOLDER = "/var/log/nspawn-runner"
RUN_FOLDER = "/run/nspawn-runner"  # records and locks; gone after a start of the host
CONNECTIONS_FOLDER = f"{RUN_FOLDER}/connections"
MAINTENANCE_FOLDER = f"{RUN_FOLDER}/maintenance"
# In a machine: what it is given for its start, and for exec.
INSIDE_FOLDER = "/run/nspawn-runner"

# In the state folder, besides images.
BUILDS, CACHES, GENERATIONS, OVERLAYS, SNAPSHOTS = ".build", ".cache", ".generations", ".overlays", ".snapshots"
TRIALS, COUNTERS = ".doctor", ".metrics.json"
HIDDEN = frozenset({BUILDS, CACHES, GENERATIONS, OVERLAYS, SNAPSHOTS, TRIALS, COUNTERS})


def keep_others_out(folder: str) -> None:
    """Make the state ``folder``, if it does not exist, and private where it is plainly the tool's alone.

    In one that others can enter they can run each setuid program of an image: as root of the host. Raises HostError
    where it may be theirs as well.
    """
    from ..host import files  # which the settings do without

    if not os.path.isdir(folder):
        files.make_private_folder(folder)
    mode = os.stat(folder).st_mode & 0o777
    if not mode & 0o077:
        return
    names = {*os.listdir(folder)} - {"lost+found"}
    if names and not names & HIDDEN and os.path.basename(folder) != os.path.basename(STATE_FOLDER):
        raise HostError(
            f"others than root can enter the state folder {folder} (mode {mode:04o})",
            facts="each setuid program of an image there would make them root of the host",
            advice=f"chmod 0700 {folder}, or name a folder in the settings that is the tool's alone",
        )
    os.chmod(folder, 0o700)
