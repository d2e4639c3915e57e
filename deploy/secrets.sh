#!/bin/sh
# Prints the secrets that compose.yaml needs, new at every call: sh deploy/secrets.sh > .env
set -eu
umask 077
secret() { # the letter in front keeps nats-server from reading digits as a number
    printf '%s=s%s\n' "$1" "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
}
for user in ADMIN LOG READ LIVE CLIENT ROUTE; do
    secret "FORGE_NATS_${user}_PASSWORD"
done
secret FORGE_S3_ACCESS_KEY_ID
secret FORGE_S3_SECRET_ACCESS_KEY
