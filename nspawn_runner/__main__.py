"""Runs the tool from its folder, however it was installed: ``python3 -I .../nspawn_runner/__main__.py``."""

import os
import sys

if not __package__:
    # Called by its path, isolated: the folder of this file is in front, its parent is what we need.
    sys.path[:1] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

from nspawn_runner.cli import entry

if __name__ == "__main__":
    entry()
