"""What a process that has locked itself into a folder can still do: make files there, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

from abilities import require
from disposable_host import CHECKOUT

from nspawn_runner.images.archive import archives

TRY = """
import sys; sys.path.insert(0, sys.argv[1])
import ctypes, json, os, socket, stat
from nspawn_runner.host import confine
libc = ctypes.CDLL(None, use_errno=True)
above = os.open("/", os.O_RDONLY)
os.close(above)
confine.lock_in(sys.argv[2])
def tried(what, *arguments):
    try:
        return repr(what(*arguments))
    except OSError as error:
        return os.strerror(error.errno)
def called(function, *arguments):
    return os.strerror(ctypes.get_errno()) if function(*arguments) else "done"
os.mknod("disk", stat.S_IFBLK | 0o666, os.makedev(8, 0))
os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.chown("made", 1000, 1000)
os.setxattr("made", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
print(json.dumps({
    "seen": sorted(os.listdir("/")),
    "above": sorted(os.listdir("/../..")),
    "link": tried(open, "link"),
    "host": tried(open, sys.argv[3]),
    "disk": tried(os.open, "disk", os.O_RDONLY),
    "null": tried(os.open, "null", os.O_RDONLY),
    "run": tried(os.execv, "/made", ["made"]),
    "mount": called(libc.mount, b"proc", b"/", b"proc", 0, None),
    "chroot": tried(os.chroot, "/"),
    "kill": tried(os.kill, 2, 9),
    "interfaces": [name for _, name in socket.if_nameindex()],
}))
"""


def test_only_the_folder_is_left(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "namespaces need root")
    root, secret = tmp_path / "root", tmp_path / "secret"
    root.mkdir()
    secret.write_text("secret")
    (root / "made").write_text("#!/bin/sh")
    (root / "made").chmod(0o755)
    (root / "link").symlink_to(secret)
    done = subprocess.run(
        [*archives.ALONE, sys.executable, "-ISc", TRY, CHECKOUT, root, secret], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    here = ["disk", "link", "made", "null"]
    missing, denied, refused = "No such file or directory", "Permission denied", "Operation not permitted"
    assert json.loads(done.stdout) == {
        "seen": here, "above": here, "link": missing, "host": missing, "disk": denied, "null": denied, "run": denied,
        "mount": refused, "chroot": refused, "kill": "No such process", "interfaces": ["lo"],
    }  # fmt: skip
    assert (root / "made").stat().st_uid == 1000
