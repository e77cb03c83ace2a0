"""What a person sees of a build."""

import io

import pytest

from nspawn_runner.images.progress import BuilderOutput, Progress

MMDEBSTRAP = """\
I: automatically chosen format: directory
I: running apt-get update...
Get:1 http://mirror.example bookworm InRelease [151 kB]
I: downloading packages with apt...
0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.
I: extracting archives...
I: installing essential packages...
Setting up libc6:amd64 (2.36-9) ...
Setting up dpkg (1.21) ...
I: installing remaining packages inside the chroot...
0 upgraded, 3 newly installed, 0 to remove and 0 not upgraded.
Setting up git (1:2.39) ..."""
DEBOOTSTRAP = """\
I: Checking Release signature
I: Retrieving apt 2.6.1
I: Validating apt 2.6.1
I: Validating dpkg 1.21
I: Extracting dpkg...
I: Unpacking apt...
I: Configuring dpkg..."""


def test_reads_mmdebstrap() -> None:
    output = BuilderOutput()
    for line in MMDEBSTRAP.splitlines():
        output.feed(line)
    assert (output.phase, output.done, output.total) == ("installing all other packages", 3, 5)


def test_reads_debootstrap() -> None:
    output = BuilderOutput()
    for line in DEBOOTSTRAP.splitlines():
        output.feed(line)
    assert (output.phase, output.done, output.total) == ("installing packages", 1, 2)


@pytest.mark.parametrize("line", ["", "I:", "I: ", "a b c newly installed, d", "\x1b[1m", "Setting"])
def test_takes_any_line(line: str) -> None:
    output = BuilderOutput()
    output.feed(line)
    assert (output.phase, output.done, output.total) == ("starting", 0, 0)


def test_elsewhere_than_on_a_terminal_a_phase_is_a_line() -> None:
    stream = io.StringIO()
    progress = Progress("image x", stream)
    for done in range(3):
        progress.show("installing packages", done, 3)
    progress.show("writing to disk")
    progress.end()
    assert stream.getvalue() == "image x: installing packages (0 s)\nimage x: writing to disk (0 s)\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError


def test_on_a_terminal_one_line_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    progress = Progress("image x", stream)
    progress.show("installing packages", 1, 3)
    progress.show("n" * 200)
    progress.end()
    first, second, last = stream.getvalue().split("\r\033[K")[1:]
    assert first == "image x: installing packages, packages 1/3 (0 s)"
    assert len(second) == 79
    assert last == ""
