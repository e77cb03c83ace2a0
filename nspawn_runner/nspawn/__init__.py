"""systemd-nspawn's options, and the ways to run a command in what it runs."""
