"""The operating system: child processes, systemd, files, locks, signals, the journal."""
