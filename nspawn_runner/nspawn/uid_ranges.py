"""The uid ranges on the host: one for each machine, and one for all changes to images.

A slot is a machine's number on this host: its uid range and its address follow from it. Nobody else uses the uids
0x70000000 to 0x7ffdffff: below are systemd-nspawn's own and subuids, above is systemd's foreign range
(systemd.io/UIDS-GIDS).
"""

from __future__ import annotations

COUNT = 65536
# Slots 0 and 1 would be the network's and the bridge's address.
FIRST_SLOT, LAST_SLOT = 2, 4093
# Changes to images are the administrator's, each in its own PID and mount namespaces, and one at a time per image.
_SLOT_OF_CHANGES = 4094


def base(slot: int) -> int:
    """Return the first host uid of the 65536 that belong to ``slot``."""
    return 0x70000000 + slot * COUNT


OF_CHANGES = base(_SLOT_OF_CHANGES)


def mapped(first: int) -> list[str]:
    """Return the options of systemd-nspawn that give a tree the uids from ``first``; its files keep theirs on disk."""
    return [f"--private-users={first}:{COUNT}", "--private-users-ownership=map"]
