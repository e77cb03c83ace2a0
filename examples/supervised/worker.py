"""A worker with a watchdog: each second it says that it lives, until it is told to hang or to take memory."""

import os
import signal
import socket
import time

hangs = False


def hang(*_: object) -> None:
    global hangs  # noqa: PLW0603
    hangs = True


def take_memory(*_: object) -> None:
    held.append(bytearray(256 << 20))


held: list[bytearray] = []
signal.signal(signal.SIGUSR1, hang)
signal.signal(signal.SIGUSR2, take_memory)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
    address = os.environ["NOTIFY_SOCKET"]
    channel.connect("\0" + address[1:] if address[0] == "@" else address)
    channel.send(b"READY=1")
    while True:
        if not hangs:
            channel.send(b"WATCHDOG=1")
        time.sleep(0.2)
