"""What a machine must be able to do for a test: where it can't, the test is skipped, but CI fails."""

import os
import shutil

import pytest
from debian_tree import IN_CI

TOOLS = ("systemd-nspawn", "mmdebstrap", "slirp4netns", "nsenter", "setpriv")


def require(ability: bool, reason: str) -> None:
    """Skip the test with the reason unless the ability is there; in CI, where nothing may be missing, fail it."""
    if ability:
        return
    if IN_CI:
        pytest.fail(f"missing in CI: {reason}", pytrace=False)
    pytest.skip(reason)


def require_host() -> None:
    """Require what a disposable host needs of this machine."""
    require(os.geteuid() == 0, "a host needs root")
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    require(not missing, f"a host needs {', '.join(missing)}: script/setup installs them")
