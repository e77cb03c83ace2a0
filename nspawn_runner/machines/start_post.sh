# shellcheck shell=sh
# Called by the unit of a machine in a job's network when it is up: gives it its network, which after a reboot nobody
# else may do for long.
#     start_post.sh READY_FILE COMMAND ARGUMENT...
[ -e "$1" ] && exit
shift
exec "$@"
