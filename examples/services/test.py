"""Visits the application three times."""

import time
import urllib.error
import urllib.request


def visit() -> str:
    """Return what the application answers, once it is up."""
    for _ in range(100):
        try:
            return urllib.request.urlopen("http://localhost:8000/").read().decode().strip()
        except urllib.error.URLError:
            time.sleep(0.1)
    raise SystemExit("the application does not start")


answers = [visit() for _ in range(3)]
if answers != ["1 1", "2 2", "3 3"]:
    raise SystemExit(f"wrong: {answers}")
print("visits are counted in both")
