"""Explain from its last output why a builder failed, and what to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence

from ...errors import HostError
from ...host import process, trees
from . import suite_source
from .suite_source import SuiteSource

_OLD_KEYS = "/usr/share/keyrings/debian-archive-removed-keys.gpg"
_NETWORK = "is the network up, and the proxy (http_proxy) right?"


def failure(builder: str, source: SuiteSource, status: int, last: Sequence[str], log: str) -> HostError:
    """Return the error for a ``builder`` that ended with ``status`` after the lines ``last``, its output in ``log``."""
    said = "\n".join(last)
    # apt's words when it sees in advance that there is no space.
    if trees.NO_SPACE in said or "enough free space" in said:
        return HostError(trees.NO_SPACE)
    known = next((advice for signs, advice in _reasons(builder, source) if any(sign in said for sign in signs)), "")
    errors = [line[3:] for line in last if line.startswith("E: ") and "failed to run" not in line]
    what = f"{builder} failed with exit status {status}" + (f": {errors[0]}" if errors else "")
    return HostError(what, facts=f"its whole output: {log}", advice=known)


def _reasons(builder: str, source: SuiteSource) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield messages of the builders, apt and debootstrap's helpers, and what to do; the first match counts."""
    suite = source.suite
    yield ("required for Release verification",), "install the program that checks signatures: apt install gpgv"
    yield ("407  Proxy Authentication", "407 Proxy Authentication"), "the proxy wants a password: see http_proxy"
    yield ("Could not resolve", "Temporary failure resolving"), f"the mirror's name cannot be looked up: {_NETWORK}"
    unreachable = ("Could not connect", "Unable to connect", "Cannot initiate the connection", "Connection timed out",
                   "Connection failed", "Network is unreachable")  # fmt: skip
    yield unreachable, f"the mirror cannot be reached: {_NETWORK}"
    yield ("Certificate verification failed", "No system certificates"), (
        "the mirror's certificate is not trusted here: apt install ca-certificates, or an http:// mirror"
    )
    yield ("is not valid yet", "Not live until"), "the host's clock is wrong: timedatectl"
    yield ("is expired", "Hash Sum mismatch", "unexpected size", "Mirror sync in progress", "was corrupt"), (
        "the mirror is being updated, or is stale: try again in some minutes, or name another with --mirror"
    )
    yield ("does not have a Release file", "404  Not Found"), f"the mirror has no suite {suite}: {_elsewhere(suite)}"
    # debootstrap does not distinguish the two.
    yield ("Failed getting release file",), (
        f"the mirror cannot be reached, or has no suite {suite}: {_elsewhere(suite)}; {_NETWORK}"
    )
    yield ("No such script",), f"debootstrap knows no suite {suite}: check --suite"
    yield ("can neither be executed", "Unable to execute target architecture", "Exec format error"), (
        f"this host cannot run {source.arch or 'its'} programs: apt install arch-test qemu-user-static binfmt-support"
    )
    yield ("Unable to locate package", "Couldn't find these debs", "has no installation candidate"), (
        f"a package is not in {suite}: check --packages and --components"
    )
    keys = ("NO_PUBKEY", "unknown key", "signature verification failed", "is not signed", "Invalid Release signature")
    yield keys, _other_keys(builder, source)


def _elsewhere(suite: str) -> str:
    """Return where to look for a suite that its usual mirror no longer has."""
    archive = {"Debian": "http://archive.debian.org/debian", "Ubuntu": "http://old-releases.ubuntu.com/ubuntu"}
    moved = archive.get(suite_source.family(suite))
    return f"check --suite, or if it is an old one: --mirror {moved}" if moved else "check --suite and --mirror"


def _other_keys(builder: str, source: SuiteSource) -> str:
    if source.keyring:
        return f"{source.keyring} holds no key that signed this suite, and no other keys are used"
    # Without it mmdebstrap only warns, long before apt misses the keys.
    if builder == "mmdebstrap" and not shutil.which("gpg", path=process.environment()["PATH"]):
        return "mmdebstrap needs gpg to choose the keyring: apt install gpg"
    old = f"; those of old suites: {_OLD_KEYS}" if os.path.isfile(_OLD_KEYS) else ""
    return f"the keys on this host are too old or the wrong ones: update the keyring package, or use --keyring{old}"
