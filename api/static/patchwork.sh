#!/bin/sh
# A client of the stream relay for shells: needs sh, curl, od and awk. `patchwork.sh help` says what it takes.
set -u

usage() {
    cat <<'USAGE'
usage: patchwork.sh send     [options] CHANNEL        send what is on stdin, end when somebody has taken it
       patchwork.sh receive  [options] CHANNEL        wait for one message and print it
       patchwork.sh listen   [options] CHANNEL        print what follows the prefix of each message, for ever
       patchwork.sh share    [options] FILE           send a file at the channel that is named like it
       patchwork.sh download [options] NAME [FILE]    receive it, into FILE or a file of that name

  -n SPACE    public, p (the default), u/USER, h or r
  -m MODE     queue (the default), or pubsub: a copy for each who waits now
  -s SECRET   the secret of a channel of h or r
  -t TOKEN    a token that may stand in a URL (PATCHWORK_TOKEN), for u/USER
  -f FILE     send: this file instead of stdin
  -g          send: as a GET with the text in the URL, as a link in a browser does
  -p PREFIX   listen: what messages begin with ("notify")
  -T SECONDS  receive, download: give up after that time

The server is PATCHWORK_SERVER, else FORGE_URL, else http://127.0.0.1:8080. It ends as curl does: 22 if it was refused.
USAGE
}

fail() {
    printf 'patchwork.sh: %s\n' "$1" >&2
    exit 2
}

# Percent-encode all of $1 that a path or the value of a query may not hold.
encode() {
    printf %s "$1" | od -An -v -tu1 | LC_ALL=C awk '{
        for (i = 1; i <= NF; i++) {
            if ($i < 128 && sprintf("%c", $i) ~ /^[A-Za-z0-9._~\/-]$/) printf "%c", $i
            else printf "%%%02X", $i
        }
    }'
}

query=
add() {
    query="${query:+$query&}$1"
}

# Set `address` to that of channel $1.
find_address() {
    server=${PATCHWORK_SERVER:-${FORGE_URL:-http://127.0.0.1:8080}}
    case $mode in
        queue) ;;
        *) add "$(encode "$mode")=true" ;;
    esac
    case $space in
        h | r) [ -z "$secret" ] || add "secret=$(encode "$secret")" ;;
        u/*) [ -z "$token" ] || add "token=$(encode "$token")" ;;
    esac
    address="${server%/}/$(encode "$space")/$(encode "$1")${query:+?$query}"
}

# Become curl at the address, which holds secrets: in a configuration it is in no list of processes.
ask() {
    exec curl --silent --show-error --config /dev/fd/3 "$@" 3<<CONFIG
url = "$address"
CONFIG
}

send() {
    must_be_readable "${file:--}"
    if [ -n "$as_link" ]; then
        text=$(cat -- "${file:--}" && echo .)
        text=${text%.}
        [ -n "$text" ] || fail "a link without a text would receive; use send without -g"
        printf %s "$text" | ask --fail --get --data-urlencode body@-
    else
        ask --fail --data-binary "@${file:--}"
    fi
}

must_be_readable() {
    [ "$1" = - ] || { [ -r "$1" ] && [ ! -d "$1" ]; } || fail "there is no file $1 to read"
}

receive() {
    ask --fail ${seconds:+--max-time "$seconds"}
}

# Run what becomes curl; whoever ends us ends it too, which a shell that waits for it would do too late.
child=
run() {
    "$@" &
    child=$!
    wait "$child"
}

# Leave no file $1 behind, nor a curl.
end_with_children() {
    left=$1
    trap 'rm -f "$left" "$left.status"' EXIT
    trap 'kill "$child" 2>/dev/null; exit 130' INT
    trap 'kill "$child" 2>/dev/null; exit 143' TERM HUP
}

listen() {
    got=$(mktemp) || exit 1
    end_with_children "$got"
    while :; do
        run ask --output "$got" --write-out '%{http_code}' >"$got.status"
        case $(cat "$got.status") in
            200) show_what_follows_the_prefix <"$got" ;;
            400 | 401 | 403 | 404 | 405 | 410)
                cat "$got" >&2
                exit 22
                ;;
            *) sleep 1 ;;
        esac
    done
}

show_what_follows_the_prefix() {
    message=$(cat)
    case $message in
        "$prefix"*)
            message=${message#"$prefix"}
            printf '%s\n' "${message# }"
            ;;
        *) sleep 1 ;;
    esac
}

share() {
    ask --fail --request POST --header 'Content-Type: application/octet-stream' --upload-file "$1"
}

download() {
    part="$1.part$$"
    end_with_children "$part"
    run receive >"$part" || exit $?
    mv "$part" "$1"
}

[ $# -gt 0 ] || {
    usage >&2
    exit 2
}
command=$1
shift
case $command in
    send | receive | listen | share | download) ;;
    help | -h | --help)
        usage
        exit 0
        ;;
    *) fail "there is no command $command; see patchwork.sh help" ;;
esac

space=p mode=queue secret= token=${PATCHWORK_TOKEN:-} file= as_link= prefix=notify seconds=
name= target= names=0
while :; do # options may stand behind the names, too
    OPTIND=1
    while getopts n:m:s:t:f:gp:T: option; do
        case $option in
            n) space=$OPTARG ;;
            m) mode=$OPTARG ;;
            s) secret=$OPTARG ;;
            t) token=$OPTARG ;;
            f) file=$OPTARG ;;
            g) as_link=1 ;;
            p) prefix=$OPTARG ;;
            T) seconds=$OPTARG ;;
            *) fail "see patchwork.sh help" ;;
        esac
    done
    shift $((OPTIND - 1))
    [ $# -gt 0 ] || break
    names=$((names + 1))
    case $command-$names in
        *-1) name=$1 ;;
        download-2) target=$1 ;;
        *) fail "$command takes no '$1' besides '$name'; see patchwork.sh help" ;;
    esac
    shift
done
[ -n "$name" ] || fail "$command needs a channel or a file; see patchwork.sh help"

case $command in
    share)
        must_be_readable "$name"
        find_address "${name##*/}"
        share "$name"
        ;;
    download)
        find_address "$name"
        download "${target:-./${name##*/}}"
        ;;
    *)
        find_address "$name"
        "$command"
        ;;
esac
