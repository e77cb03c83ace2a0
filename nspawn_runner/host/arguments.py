"""Executes the command stored in a file: its words, each terminated by NUL.

    arguments.py FILE

Units call this, so that systemd does not change or misread the words. It needs only the standard library
(python3 -I -S).
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        words = file.read().split(b"\0")[:-1]
    os.execvp(words[0], words)  # noqa: S606  (an argument list, no shell)
