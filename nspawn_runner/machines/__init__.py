"""Machines: start, run a script, stop; records, backends and network."""
