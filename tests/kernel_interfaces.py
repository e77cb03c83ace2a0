"""What of the kernel a process can use, tried: a script that prints each interface and whether it is open or closed.

An interface is closed where the call is refused or unknown; any other error says that it was looked at. The numbers of
system calls are those of x86-64.
"""

_HEAD = """
import ctypes, errno, mmap, os, socket
libc = ctypes.CDLL(None, use_errno=True)
CLOSED = {errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EAFNOSUPPORT}

def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

def family(number, kind=socket.SOCK_STREAM):
    socket.socket(number, kind)

def family_of_32_bit(number):
    # socketcall(SYS_SOCKET, {family, SOCK_STREAM, 0}) by int 0x80, which takes addresses below 4 GiB
    libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40  # MAP_32BIT
    place = libc.mmap(None, ctypes.c_size_t(4096), 7, flags, -1, ctypes.c_long(0))
    little = lambda value: value.to_bytes(4, "little")
    code = b"\\x53\\xb8" + little(102) + b"\\xbb" + little(1) + b"\\xb9" + little(place + 64) + b"\\xcd\\x80\\x5b\\xc3"
    ctypes.memmove(place, code.ljust(64) + little(number) + little(1) + little(0), 76)
    result = ctypes.CFUNCTYPE(ctypes.c_int)(place)()
    if result < 0:
        raise OSError(-result, "")

def tried(name, probe):
    if child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(f"{name}: {'closed' if status else 'open'}", flush=True)
        return
    try:
        probe()
    except OSError as error:
        os._exit(error.errno in CLOSED)
    finally:
        os._exit(0)
"""
_PROBES = {
    "sockets of AF_VSOCK": "family(40)",
    "sockets of AF_VSOCK by socketcall of 32-bit x86": "family_of_32_bit(40)",
    "sockets of AF_XDP and other rare families": "family(44, socket.SOCK_RAW)",
    "sockets of AF_PACKET": "family(17, socket.SOCK_RAW)",
    "io_uring": "call(425, 0, 0)",
    "userfaultfd": "call(323, 1)",
    "keyrings": "call(248, 0, 0, 0, 0, 0)",
    "bpf": "call(321, -1, 0, 0)",
    "perf_event_open": "call(298, 0, 0, -1, -1, 0)",
    "open_by_handle_at": "call(304, -1, 0, 0)",
    "loading modules": "call(313, -1, 0, 0)",
    "setting the clock": "call(227, 0, 0)",
    "swapon, swapoff": "call(167, 0, 0)",
    "accounting of processes": "call(163, b'/nowhere')",
    "the kernel's log": "call(103, 3, b' ' * 64, 64)",
    "ports of devices (iopl)": "call(172, 3)",
    "character and block devices (mknod)": "os.mknod('/dev/shm/node', 0o20666, os.makedev(1, 3))",
    "mount": "call(165, 0, 0, 0, 0, 0)",
    "namespaces (unshare, setns)": "call(272, 0x10000000)",
    "other personalities": "call(135, 0x40000)",
    "ptrace of own processes": "call(101, 0, 0, 0, 0)",
}


def script() -> str:
    """Return the Python script."""
    lines = [f"tried({name!r}, lambda: {probe})" for name, probe in _PROBES.items()]
    return "\n".join([_HEAD, *lines])


# Each file or folder, by name, that has something to read. Docker masks these.
MASKED = r"""
for path in /proc/{acpi,asound,interrupts,kcore,keys,latency_stats,sched_debug,scsi,timer_list,timer_stats} \
    /sys/firmware /sys/devices/virtual/powercap /sys/devices/system/cpu/cpu*/thermal_throttle; do
    find $path -type f 2> /dev/null
done | while read -r file; do head --bytes=1 $file 2> /dev/null | grep --quiet --text . && echo $file; done
true
"""
