"""The operating system: child processes, systemd, argument lists for nspawn, files, locks."""
