"""Runs the tool from its folder, however it was installed: ``python3 -I .../nspawn_runner/__main__.py``."""

import gc
import os
import sys

gc.disable()  # nothing here lives long enough to collect

if not __package__:
    # Called by its path, isolated: the folder of this file is in front, its parent is what we need.
    sys.path[:1] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

from nspawn_runner.cli import entry  # noqa: E402

if __name__ == "__main__":
    entry()
