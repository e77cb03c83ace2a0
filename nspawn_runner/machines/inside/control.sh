# In the machine of a service: runs one command for the job, as root, and answers with its status and what it wrote.
# Called by systemd for each connection of the job's network, which is its standard input and output.
#     asked: TOKEN, the command as a shell's script in base64, LENGTH, each on a line of its own; LENGTH bytes of input
#     answered: STATUS BYTES-OF-OUTPUT BYTES-OF-ERRORS on a line; both
set -u
folder=${0%/*}
read -r token && read -r script && read -r length || exit 1
# What is not of the job, such as a page that a browser of its tests loads, does not know the token.
[ "$token" = "$(cat "$folder/token")" ] || exit 1
work=$(mktemp --directory /var/tmp/nspawn-runner.XXXXXX) || exit 1
trap 'rm -rf "$work"' EXIT
head --bytes="$length" > "$work/in"
printf %s "$script" | base64 --decode > "$work/script"
# As at a login of root, with the service's variables besides.
export HOME=/root USER=root LOGNAME=root SHELL=/bin/sh
unset INVOCATION_ID JOURNAL_STREAM SYSTEMD_EXEC_PID REMOTE_ADDR REMOTE_PORT OLDPWD
cd /root 2> /dev/null || cd /
/bin/sh "$work/script" < "$work/in" > "$work/out" 2> "$work/err"
echo "$? $(stat --format=%s "$work/out" "$work/err" | tr '\n' ' ')"
cat "$work/out" "$work/err"
