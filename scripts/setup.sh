#!/usr/bin/env bash
# setup.sh - what building, testing and the demo need on a Debian machine. Safe to run again; says nothing when nothing is to do.
#
# Installs missing Debian packages (as root, or through sudo), S3 servers to test on (in the cache) and, where the shared folder is at hand, a real Odoo 19 for the drill's
# sign-in, into the cache outside the repository. It leaves no PostgreSQL cluster running and creates none.
#   --demo    only what the demo needs: no S3 servers
#   --bench   also what scripts/bench.sh compares with (pgbackrest)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/places.sh

wanted=(postgresql-15 postgresql-client-15 bubblewrap age zstd jq openssh-client util-linux python3-venv build-essential ca-certificates curl openssl)
[ "${1:-}" = --bench ] && wanted+=(pgbackrest time)

installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }
missing=()
for package in "${wanted[@]}"; do installed "$package" || missing+=("$package"); done
if [ ${#missing[@]} -gt 0 ]; then
  root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "setup: missing: ${missing[*]}; run this as root, or install them" >&2; exit 1; }
    root=(sudo)
  fi
  echo "setup: installing ${missing[*]}" >&2
  # Debian's package makes and starts a cluster of its own when it is installed: not here.
  if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    "${root[@]}" mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' | "${root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi
  "${root[@]}" apt-get -qq update
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
fi

# S3 servers for the tests, on loopback, started by them.
if [ "${1:-}" != --demo ]; then
  scripts/ceph.sh || echo "setup: no Ceph; tests that need an S3 server with real locks are skipped" >&2
  scripts/moto.sh || echo "setup: no moto; tests that need an S3 server that lies are skipped" >&2
fi

if [ -z "$shared" ]; then
  echo "setup: skipped Odoo: the shared folder (../shared or \$LIFEBOAT_SHARED) is absent; drills run without a real sign-in" >&2
elif [ ! -e "$odoo/venv/ready" ] || [ ! -e "$odoo/code/odoo/release.py" ]; then
  echo "setup: installing Odoo 19 into $odoo (about a minute)" >&2
  mkdir -p "$odoo"
  bash "$shared/odoo/server/install.sh" "$odoo" >"$cache/odoo-install.log" 2>&1 ||
    { tail -5 "$cache/odoo-install.log" >&2; echo "setup: Odoo could not be installed; drills run without a real sign-in" >&2; }
fi
