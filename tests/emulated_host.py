# ruff: noqa: S607
"""A Debian host in an emulated machine, with a kernel of its own and control groups of version 2: tests run there.

Disposable hosts share the kernel of whoever boots them, and with it the version of control groups. Here limits meet the
other one. It needs root, mmdebstrap and qemu-system-x86, no virtualization, and a quarter of an hour.

    python3 tests/emulated_host.py tests/integration/test_limits.py -k memory
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from debian_tree import HostError, cache_folder, debian_tree, locked, remove_tree, say
from disposable_host import CHECKOUT, HOST_PACKAGES, STATE_FOLDER, image_tree

PACKAGES = f"{HOST_PACKAGES},initramfs-tools,linux-image-cloud-amd64,python3-hypothesis,python3-pytest,udev"
MEMORY, DISK = "4G", "8G"
TESTS = ("tests/integration/test_limits.py", "tests/integration/test_limits_reached.py")
END = "the tests in the emulated host ended with "
UNIT = f"""
[Unit]
After=multi-user.target
[Service]
Type=idle
ExecStart=/bin/sh /root/tests
ExecStopPost=/bin/sh -c 'echo "{END}$$EXIT_STATUS"; systemctl poweroff --force'
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
"""
# The state folder is on the root's file system first, then on btrfs.
SCRIPT = """
cd {checkout}
export HOME=/root PYTHONDONTWRITEBYTECODE=1 TERM=dumb
stat --file-system --format='control groups: %T' /sys/fs/cgroup
{pytest} || status=1
mkfs.btrfs --quiet /dev/vdb
mount /dev/vdb /mnt
btrfs --quiet subvolume create /mnt/bookworm
cp --archive {state}/bookworm/. /mnt/bookworm/
mount --bind /mnt {state}
{pytest} || status=1
exit ${{status:-0}}
"""


def main(arguments: list[str]) -> int:
    missing = [tool for tool in ("mke2fs", "mmdebstrap", "qemu-system-x86_64") if not shutil.which(tool)]
    if os.geteuid() or missing:
        sys.exit("emulated host: needs root" if os.geteuid() else f"emulated host: missing: {' '.join(missing)}")
    tree = debian_tree("emulated", "trixie", PACKAGES)
    image = image_tree()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scratch = cache_folder() / "hosts" / f"host-emulated-{os.getpid()}"
    scratch.mkdir(parents=True)
    lock = scratch.with_suffix(".lock")
    with locked(lock):  # of one that is killed the next host removes what it left
        try:
            return run(tree, make_disks(scratch, tree, image, arguments or TESTS))
        except HostError as error:
            say(str(error))
            return 2
        finally:
            remove_tree(scratch)
            lock.unlink()


def make_disks(scratch: Path, tree: Path, image: Path, arguments: Sequence[str]) -> list[Path]:
    """Make the disk that the host boots from, and an empty one."""
    root = scratch / "root"
    subprocess.run(["cp", "--archive", "--reflink=auto", tree, root], check=True)
    state = root / STATE_FOLDER.lstrip("/")
    state.mkdir(mode=0o700)
    subprocess.run(["cp", "--archive", "--reflink=auto", image, state / "bookworm"], check=True)
    checkout = root / str(CHECKOUT).lstrip("/")
    checkout.mkdir(parents=True)
    listed = ["git", "-C", str(CHECKOUT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
    copy = ["cp", "--parents", "--target-directory", str(checkout), "--"]
    subprocess.run([*copy, *(name for name in files.split("\0") if name)], cwd=CHECKOUT, check=True)
    pytest = shlex.join(["python3", "-m", "pytest", "-p", "no:cacheprovider", "--this-host", *arguments])
    script = SCRIPT.format(checkout=shlex.quote(str(CHECKOUT)), pytest=pytest, state=STATE_FOLDER)
    (root / "root/tests").write_text(script)
    (root / "etc/systemd/system/tests.service").write_text(UNIT)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "tests.service").symlink_to("../tests.service")
    (root / "etc/hostname").write_text("emulated\n")
    disks = [scratch / "disk", scratch / "other"]
    subprocess.run(["truncate", f"--size={DISK}", *disks], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disks[0]], check=True)
    remove_tree(root)
    return disks


def run(tree: Path, disks: list[Path]) -> int:
    """Boot from the first disk, show what the tests say, and return their status: 0 where all passed."""
    [kernel] = (tree / "boot").glob("vmlinuz-*")
    [initrd] = (tree / "boot").glob("initrd.img-*")
    drives = [word for disk in disks for word in ("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe")]
    argv: list[str | Path] = [
        "setpriv", "--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-accel", "tcg,thread=multi",
        "-cpu", "max", "-smp", "2", "-m", MEMORY, "-display", "none", "-monitor", "none", "-serial", "stdio",
        "-no-reboot", "-nic", "none", "-device", "virtio-rng-pci", *drives, "-kernel", kernel, "-initrd", initrd,
        "-append", "root=/dev/vda rw console=ttyS0 quiet loglevel=1 systemd.show_status=0 "
        "systemd.mask=serial-getty@ttyS0.service",
    ]  # fmt: skip
    status = ""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdout
        try:
            for line in qemu.stdout:
                shown = line.decode(errors="replace").rstrip()
                print(shown, flush=True)
                if END in shown:
                    status = shown.partition(END)[2]
        finally:
            with contextlib.suppress(ProcessLookupError):
                qemu.kill()
    if not status.isdigit():
        raise HostError("the emulated host ended before its tests")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
