"""Unit tests can't start processes by accident."""

import os
import subprocess

import pytest

from nspawn_runner.host import process


def test_a_process_is_refused() -> None:
    for start in (lambda: subprocess.run(["/bin/true"], check=False), lambda: process.run(["true"]), os.fork):
        with pytest.raises(BaseException, match="a unit test started a process") as refused:
            start()
        assert not isinstance(refused.value, Exception)


@pytest.mark.starts_processes
def test_on_purpose_it_works() -> None:
    assert process.run(["true"]).returncode == 0
