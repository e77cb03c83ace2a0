"""nspawn-runner: every CI job in its own freshly booted Linux system."""

__version__ = "0.1.0"
