"""Executes the command stored in a file: its words, each terminated by NUL.

    arguments.py FILE

For units: what systemd would change or misread in a command line is not in it. It runs with nothing but the standard
library (python3 -I -S).
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        words = file.read().split(b"\0")[:-1]
    os.execvp(words[0], words)  # noqa: S606  (an argument list, no shell)
