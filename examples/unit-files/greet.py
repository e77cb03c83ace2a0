"""A service of Type=notify: says when it is ready, and answers on the socket that systemd has opened for it."""

import os
import socket


def notify(state: str) -> None:
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


with socket.socket(fileno=3) as server:
    notify("READY=1\nSTATUS=answering")
    while True:
        with server.accept()[0] as client:
            client.sendall(b"hello\n")
