#!/usr/bin/env bash
# Installs the servers that tests run against, where they are missing: PostgreSQL, Redis, and libfaketime for clocks.
# Needs apt and root, or sudo that does not ask; elsewhere it says what to install by hand.
set -euo pipefail

has() { command -v "$1" > /dev/null; }
has_postgres() { has postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' > /dev/null; }
has_faketime() { compgen -G '/usr/lib/*/faketime/libfaketime.so.1' > /dev/null; }

missing=()
has_postgres || missing+=(postgresql)
has redis-server || missing+=(redis-server)
has_faketime || missing+=(libfaketime)
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

root=()
if [ "$(id -u)" -ne 0 ]; then
    root=(sudo -n)
fi
if ! has apt-get || ! "${root[@]}" true 2> /dev/null; then
    echo "the tests need servers that are not on this machine: install ${missing[*]} (by apt as root, or your system's packages)" >&2
    exit 1
fi
echo "installing ${missing[*]}"
# Only the programs: the packages would start a server, or make a cluster, which the tests do not use.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" > /dev/null
    "${root[@]}" chmod 755 "$policy"
    trap '"${root[@]}" rm -f "$policy"' EXIT
fi
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "${missing[@]}"
