#!/usr/bin/env bash
# moto.sh - installs moto, an imitation of S3 that lies about its locks, into the cache. Says nothing when it is there.
# Exits with 1, saying why, when it cannot be had; the tests that need it are skipped then.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/places.sh

home=$cache/moto
mkdir -p "$home"
exec 8>"$home/lock"; flock 8
[ -e "$home/ready" ] && exit 0
echo "moto: installing moto into $home (about a minute)" >&2
rm -rf "$home/venv"
if python3 -m venv "$home/venv" && "$home/venv/bin/pip" install --quiet 'moto[server]==5.2.5'; then
  touch "$home/ready"
  exit 0
fi >"$home/install.log" 2>&1
tail -3 "$home/install.log" >&2
exit 1
