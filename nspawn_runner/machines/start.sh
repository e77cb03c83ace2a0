# shellcheck shell=sh
# The first program of a machine's unit: bounds the unit's control group, then becomes the machine.
#     start.sh GROUP DEPTH DESCENDANTS COMMAND ARGUMENT...
# GROUP is the group's folder; with cgroup version 1 there are no bounds.
{
    echo "$2" >"$1/cgroup.max.depth"
    echo "$3" >"$1/cgroup.max.descendants"
} 2>/dev/null
shift 3
exec "$@"
