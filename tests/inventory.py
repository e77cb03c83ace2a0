"""All that there is on a host, to compare before a program came and after it went."""

import re

from by_hand import lines_of
from disposable_host import DisposableHost

# What a host has; without what the host's own daemons write meanwhile, and what is each process's own.
INVENTORY = """
find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log/journal -o -path /run/log \\
    -o -path /run/systemd/journal -o -path /var/lib/systemd/timesync -o -path /var/cache/ldconfig \\) -prune -o -print |
    sed 's/^/file /'
find /run -xdev ! -path '/run/log/*' ! -path '/run/systemd/journal/*' ! -path '/run/systemd/units/*' \\
    ! -path '/run/udev/*' | sed 's/^/run /'
find /var/lib/nspawn-runner | sed 's/^/state /'
systemctl list-units --all --plain --no-legend --full --type=service,timer,slice,mount | cut -d ' ' -f 1 |
    sed 's/^/unit /'
systemctl list-unit-files --plain --no-legend | sed 's/^/unit file /'
ip -brief link | cut -d ' ' -f 1 | sed 's/^/link /'
ip rule | sed 's/^/rule /'
ip route | sed 's/^/route /'
nft list ruleset | sed 's/^/nft /'
cut -d ' ' -f 4,5 /proc/self/mountinfo | sed 's/^/mount /'
find /sys/fs/cgroup -type d | sed 's/^/cgroup /'
"""
# systemd's own, which stays once it was wanted, and how the tests come in.
OTHERS = re.compile(
    r"(machine\.slice|systemd-machined\.service|/var/lib/systemd/timers|/entered\.scope/\w+|io\.systemd\.Machine\w*"
    r"|/run/systemd/(machines?|transient|nspawn(/[a-z-]+)?|ask-password-block(/[\d:]+)?))$"
)


def inventory(host: DisposableHost) -> list[str]:
    """Return files, units, links, routes, rules, mounts and control groups, one text each."""
    return [line for line in lines_of(host, INVENTORY) if not OTHERS.search(line)]
