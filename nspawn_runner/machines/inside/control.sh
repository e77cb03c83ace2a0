# shellcheck shell=sh
# In the machine of a service: runs one command for the job, as root, and passes on what it writes as it comes.
# Called by systemd for each connection of the job's network, which is its standard input and output. The first line of
# each is TOKEN, then:
#     run, the command as a shell's script in base64, LENGTH, LENGTH bytes of input
#         answered: the command's ID on a line; what it writes to standard output
#     errors, ID      answered: what it writes to standard error
#     status, ID      answered, once both have ended: its exit status
set -u
folder=${0%/*}
kept=/var/tmp/nspawn-runner
read -r token && read -r verb && read -r argument || exit 1
# What is not of the job, such as a page that a browser of its tests loads, does not know the token.
[ "$token" = "$(cat "$folder/token")" ] || exit 1

# follow FILE PID: write what is in FILE and what comes until PID ends, which is seen within 10 ms.
follow() { tail --bytes=+1 --follow --sleep-interval=0.01 --pid="$2" "$1"; }

run() {
    read -r length || exit 1
    work=$(mktemp --directory "$kept.XXXXXX") || exit 1
    trap 'rm -rf "$work"' EXIT
    head --bytes="$length" > "$work/in"
    printf %s "$1" | base64 --decode > "$work/script"
    touch "$work/out" "$work/err"
    # We end when the command does, however that is; what that leaves running may keep its files.
    echo "$$" > "$work/running"
    echo "${work##*.}"
    follow "$work/out" "$$" &
    # As at a login of root, with the service's variables besides.
    export HOME=/root USER=root LOGNAME=root SHELL=/bin/sh
    unset INVOCATION_ID JOURNAL_STREAM SYSTEMD_EXEC_PID REMOTE_ADDR REMOTE_PORT OLDPWD
    cd /root 2> /dev/null || cd /
    /bin/sh "$work/script" < "$work/in" > "$work/out" 2> "$work/err"
    echo $? > "$work/status"
    # The connection is closed when nobody of us has it any more. What nobody asks for goes with the machine.
    trap - EXIT
}

case $verb:$argument in
    run:*) run "$argument" ;;
    *:*[!A-Za-z0-9]*) exit 1 ;;
    errors:*) follow "$kept.$argument/err" "$(cat "$kept.$argument/running")" ;;
    status:*) cat "$kept.$argument/status" && rm -rf "$kept.$argument" ;;
esac
