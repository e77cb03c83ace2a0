"""Wait until TCP ports answer: port_probe.py ADDRESS SECONDS PORT...; ends with 0 when all did, else with 1.

It runs in the network namespace of a service's machine, with nothing but the standard library.
"""

import _socket
import sys
import time


def answers(address: str, port: int) -> bool:
    """Return whether something accepts a connection to the port."""
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    probe.settimeout(1)
    try:
        probe.connect((address, port))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def main(address: str, seconds: str, *ports: str) -> int:
    """Wait for all ``ports``; return the exit status."""
    deadline = time.monotonic() + float(seconds)
    missing = [int(port) for port in ports]
    while missing := [port for port in missing if not answers(address, port)]:
        if time.monotonic() > deadline:
            return 1
        time.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
