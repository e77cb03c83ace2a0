#!/bin/bash
# In the machine of a job: the command nspawn-runner, by which its scripts handle the job's own services.
set -u
folder=/run/nspawn-runner/start

usage() {
    cat << 'END'
The services of this job:

    nspawn-runner services                      their names, one a line
    nspawn-runner run SERVICE COMMAND...        run a command as root in the service's machine
    nspawn-runner restart SERVICE UNIT...       restart units there
    nspawn-runner reboot SERVICE                reboot the machine, and wait until it is up again
    nspawn-runner copy FILE... SERVICE:FOLDER   copy files and folders there
    nspawn-runner copy SERVICE:FILE... FOLDER   copy them from there
    nspawn-runner inventory                     an inventory for Ansible, with the connection nspawn_runner

The exit status is the command's, 255 when the service does not answer.
END
}

fail() { echo "nspawn-runner: $1" >&2; exit 255; }

address_of() {
    local address names name
    while read -r address names; do
        for name in $names; do [ "$name" = "$1" ] && { echo "$address"; return; }; done
    done < "$folder/services"
    fail "the job has no service $1; it has: $(names)"
}

names() { while read -r _ name _; do printf '%s ' "$name"; done < "$folder/services"; }

quoted() { local word; for word; do printf "'%s' " "${word//\'/\'\\\'\'}"; done; }

# ask SERVICE SCRIPT [FILE]: have the shell of SERVICE run SCRIPT, with the content of FILE as its input.
ask() {
    local address id status
    address=$(address_of "$1") || exit
    { exec 3<> "/dev/tcp/$address/213"; } 2> /dev/null || return 255
    {
        cat "$folder/token"
        echo run
        printf %s "$2" | base64 --wrap=0
        echo
        stat --dereference --format=%s "${3:-/dev/null}"
        cat "${3:-/dev/null}"
    } >&3 2> /dev/null
    read -r id <&3 || { exec 3>&-; return 255; }
    told "$address" errors "$id" >&2 &
    cat <&3
    exec 3>&-
    wait "$!"
    status=$(told "$address" status "$id")
    return "${status:-255}"
}

# told ADDRESS WHAT ID: write what the service at ADDRESS tells of the command ID.
told() {
    { exec 4<> "/dev/tcp/$1/213"; } 2> /dev/null || return 255
    { cat "$folder/token" && echo "$2" && echo "$3"; } >&4 2> /dev/null
    cat <&4
}

# with_input SERVICE SCRIPT: the same with our own standard input, which is kept first since its length is told.
with_input() {
    local kept status
    kept=$(mktemp) || exit 255
    [ -t 0 ] || cat > "$kept"
    ask "$1" "$2" "$kept"
    status=$?
    rm -f "$kept"
    return "$status"
}

must_answer() { [ "$1" != 255 ] || fail "the service $2 does not answer"; }

started() { ask "$1" 'systemctl show --property=UserspaceTimestampMonotonic --value' 2> /dev/null; }

reboot() {
    local before now deadline=$((SECONDS + 90))
    before=$(started "$1")
    must_answer "$?" "$1"
    ask "$1" 'systemctl reboot' > /dev/null 2>&1
    while [ "$SECONDS" -lt "$deadline" ]; do
        now=$(started "$1") && [ -n "$now" ] && [ "$now" != "$before" ] && {
            ask "$1" 'systemctl is-system-running --wait' > /dev/null
            return 0
        }
        sleep 0.1
    done
    fail "the service $1 does not come back from its reboot"
}

copy() {
    local last=${!#} service kept status=0 path sources=()
    [ "$#" -ge 2 ] || { usage >&2; exit 255; }
    kept=$(mktemp) || exit 255
    case $last in
        *:*)
            service=${last%%:*}
            for path in "${@:1:$#-1}"; do
                path=$(realpath --no-symlinks -- "$path")
                sources+=("--directory=${path%/*}/" "./${path##*/}")
            done
            tar --create --file="$kept" "${sources[@]}" || status=$?
            [ "$status" != 0 ] || ask "$service" "tar --extract --directory=$(quoted "${last#*:}") --file=-" "$kept" || status=$?
            ;;
        *)
            service=${1%%:*}
            for path in "${@:1:$#-1}"; do
                path=${path#*:}
                ask "$service" "path=\$(realpath --no-symlinks -- $(quoted "$path")) &&
                    tar --create --file=- --directory=\"\${path%/*}/\" -- \"./\${path##*/}\"" > "$kept" || status=$?
                [ "$status" != 0 ] || tar --extract --directory="$last" --file="$kept" || status=$?
            done
            ;;
    esac
    rm -f "$kept"
    must_answer "$status" "$service"
    return "$status"
}

inventory() {
    echo 'services:'
    echo '  hosts:'
    for name in $(names); do printf '    "%s": {}\n' "$name"; done
    echo '  vars:'
    echo '    ansible_connection: nspawn_runner'
    echo '    ansible_python_interpreter: auto_silent'
}

verb=${1:-}
[ "$#" = 0 ] || shift
case $verb in
    services) for name in $(names); do echo "$name"; done ;;
    run)
        [ "$#" -ge 2 ] || { usage >&2; exit 255; }
        [ "$2" = -- ] && set -- "$1" "${@:3}"
        with_input "$1" "exec $(quoted "${@:2}")"
        status=$?
        must_answer "$status" "$1"
        exit "$status"
        ;;
    restart)
        [ "$#" -ge 2 ] || { usage >&2; exit 255; }
        ask "$1" "exec systemctl restart -- $(quoted "${@:2}")"
        status=$?
        must_answer "$status" "$1"
        exit "$status"
        ;;
    reboot) [ "$#" = 1 ] || { usage >&2; exit 255; }; reboot "$1" ;;
    copy) copy "$@" ;;
    inventory) inventory ;;
    -h | --help | help) usage ;;
    *) usage >&2; exit 255 ;;
esac
