# shellcheck shell=sh
# Called by a machine's unit when it ends: calls the reaper, unless whoever removes the machine does its work.
#     stop_post.sh REMOVAL_FILE COMMAND ARGUMENT...
# It does not fork: the job may have used up the unit's tasks.
[ -e "$1" ] && exit
shift
exec "$@"
