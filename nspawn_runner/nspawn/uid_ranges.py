"""The ranges of uids on the host: one for each machine, and one for all changes of images.

A slot is a machine's number on this host: its uid range and its address follow from it. The uids 0x70000000 to
0x7ffdffff are used by nobody else: below lie systemd-nspawn's own and subuids, above systemd's foreign range
(systemd.io/UIDS-GIDS).
"""

from __future__ import annotations

COUNT = 65536
# Slots 0 and 1 would be the network's and the bridge's address.
FIRST_SLOT, LAST_SLOT = 2, 4093
# Changes of images are the administrator's, each in PID and mount namespaces of its own, and one at a time per image.
_SLOT_OF_CHANGES = 4094


def base(slot: int) -> int:
    """Return the first host uid of the range of 65536 that belongs to ``slot``."""
    return 0x70000000 + slot * COUNT


OF_CHANGES = base(_SLOT_OF_CHANGES)


def mapped(first: int) -> list[str]:
    """Return the options of systemd-nspawn that give a tree's root the range from ``first``; files keep theirs."""
    return [f"--private-users={first}:{COUNT}", "--private-users-ownership=map"]
