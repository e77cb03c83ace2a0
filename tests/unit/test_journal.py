"""Entries for the journal: the datagrams, and that nothing waits for them or fails by them."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from journal_datagrams import fields_of

from nspawn_runner.host import journal


@pytest.fixture
def receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(path))
        made.setblocking(False)
        monkeypatch.setattr(journal, "SOCKET", str(path))
        yield made


def test_an_entry(receiver: socket.socket) -> None:
    journal.send("it ended", priority=journal.NOTICE, fields={"NSPAWN_RUNNER_JOB": "1", "NSPAWN_RUNNER_IMAGE": ""})
    expected = b"MESSAGE=it ended\nPRIORITY=5\nSYSLOG_IDENTIFIER=nspawn-runner\nNSPAWN_RUNNER_JOB=1\n"
    assert receiver.recv(65536) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain=text", "plain=text"),
        ("a\nNSPAWN_RUNNER_JOB=2", "a\nNSPAWN_RUNNER_JOB=2"),
        ("\n", "\n"),
        ("zürich\0", "zürich\0"),
        ("half \ud800", "half ?"),
        ("x" * 5000, "x" * 1000),
        ("ü" * 999 + "€", "ü" * 500),
        ("x" * 999 + "ü", "x" * 999),
    ],
)
def test_values_of_a_hostile_job(text: str, expected: str) -> None:
    fields = {"NSPAWN_RUNNER_JOB": "1", "NSPAWN_RUNNER_IMAGE": text, "NSPAWN_RUNNER_RESULT": "failed"}
    assert fields_of(journal.datagram(fields)) == {**fields, "NSPAWN_RUNNER_IMAGE": expected}


def test_no_journal_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "none"))
    journal.send("it ended", priority=journal.INFO, fields={})


def test_a_full_queue_is_not_waited_for(receiver: socket.socket) -> None:
    began = time.monotonic()
    for _ in range(2000):
        journal.send("it ended", priority=journal.INFO, fields={})
    assert time.monotonic() - began < 5
    received = [receiver.recv(65536)]
    with suppress(BlockingIOError):
        while True:
            received.append(receiver.recv(65536))
    assert len(received) < 2000
