#!/usr/bin/env bash
# bench-s3.sh - backup and restore of acme to a bucket (Ceph on this machine) and to a folder, in one run; prints both and their ratio.
#
# Only ratios of one run count: the machine is shared and noisy, and the S3 server takes its part of it. ROUNDS=3 takes more samples;
# each is printed. Requests are counted from the store's log. A release build is used where there is one (PROFILE=release builds it).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
. scripts/places.sh
[ -n "$shared" ] || { echo "bench: acme is needed: set LIFEBOAT_SHARED" >&2; exit 2; }
profile=${PROFILE:-dev}
cargo build --quiet --locked --bin lifeboat --profile "$profile"
boat=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")/lifeboat
boat=$(realpath "$boat")

bin=/usr/lib/postgresql/15/bin dir=$(mktemp -d /tmp/lbXXXXXX)
export PGHOST=$dir/s PGPORT=5432 PGUSER=postgres LC_ALL=C.UTF-8
unset PGPASSWORD PGDATABASE
server_user=()
mkdir "$dir/s"; chmod 755 "$dir"
if [ "$(id -u)" = 0 ]; then chown 65534:65534 "$dir" "$dir/s"; server_user=(setpriv --reuid=65534 --regid=65534 --clear-groups); fi
postmaster=
finish() {
  if [ -n "$postmaster" ]; then kill -INT "$postmaster" 2>/dev/null || true; wait "$postmaster" || true; fi
  rm -rf "$dir"
}
trap finish EXIT
sql() { psql -XAtq -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }

"${server_user[@]}" "$bin/initdb" -U postgres -E UTF8 --locale=C.UTF-8 --auth=trust --no-sync -k -D "$dir/data" >/dev/null
"${server_user[@]}" "$bin/postgres" -D "$dir/data" -k "$dir/s" -c listen_addresses= -c wal_level=replica -c fsync=off -c max_slot_wal_keep_size=4GB >"$dir/server.log" 2>&1 & postmaster=$!
for _ in $(seq 300); do psql -XAtqc 'SELECT 1' postgres >/dev/null 2>&1 && break; sleep 0.1; done
sql postgres 'CREATE DATABASE acme TEMPLATE template0'
sql acme 'CREATE EXTENSION pg_trgm; CREATE EXTENSION unaccent; ALTER FUNCTION unaccent(text) IMMUTABLE'
zstd -qdc "$shared/odoo/acme.dump.zst" >"$dir/acme.dump"
"$bin/pg_restore" --no-owner --exit-on-error -j2 -d acme "$dir/acme.dump"
mkdir "$dir/files"; zstd -qdc "$shared/odoo/acme.filestore.tar.zst" | tar -x -C "$dir/files"
sql postgres CHECKPOINT

# The server stays for as long as somebody holds its users file.
eval "$(scripts/rgw.sh up | sed 's/^/rgw_/')"
exec 7>>"$rgw_users"; flock -s 7
mkdir "$dir/aws"; export AWS_SHARED_CREDENTIALS_FILE=$dir/aws/credentials AWS_CONFIG_FILE=$dir/aws/config AWS_EC2_METADATA_DISABLED=true
unset AWS_PROFILE AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$rgw_access_key" "$rgw_secret_key" >"$AWS_SHARED_CREDENTIALS_FILE"

# bucket NAME : made by curl, which signs as S3 wants
bucket() {
  curl -sf --aws-sigv4 aws:amz:us-east-1:s3 --user "$rgw_access_key:$rgw_secret_key" -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \
    -H 'x-amz-bucket-object-lock-enabled: true' -X PUT "$rgw_endpoint/$1"
}

estate() { # estate NAME STORE-LINES
  local home=$dir/$1; rm -rf "$home"; mkdir -p "$home/store"
  printf '%s\n' "state_dir = \"state\"" '[estate]' 'name = "bench"' '[store]' "$2" '[keys]' 'writer = "writer.json"' \
    'identities = "identities"' 'signers = "allowed_signers"' '[clusters.main]' "host = \"$dir/s\"" 'user = "postgres"' \
    "slot = \"lifeboat_$1\"" '[tenants.acme]' 'cluster = "main"' 'databases = ["acme"]' "filestore = \"$dir/files\"" >"$home/lifeboat.toml"
  "$boat" --config "$home/lifeboat.toml" --json init --spares 4 >/dev/null
}

measure() { # measure WHO STEP ARGUMENT... : seconds and requests, as a line of results
  local who=$1 step=$2 begun code=0; shift 2
  rm -f "$dir/calls"
  begun=$(date +%s.%N)
  LIFEBOAT_STORE_LOG=$dir/calls "$boat" --config "$dir/$who/lifeboat.toml" --json "$@" >"$dir/out" 2>"$dir/err" || code=$?
  local seconds; seconds=$(echo "$(date +%s.%N) - $begun" | bc)
  case $code in 0 | 3) ;; *) cat "$dir/out" "$dir/err" >&2; echo "bench: $who $step: exit $code" >&2; exit 1 ;; esac
  jq -rs --arg who "$who" --arg step "$step" --argjson seconds "$seconds" '
    def count(op): map(select(.op == op)) | length; def bytes(op): map(select(.op == op) | .bytes) | add // 0;
    [$step, $who, $seconds, count("put"), count("extend"), count("get"), count("list"), bytes("put"), bytes("get")] | @tsv' "$dir/calls" >>"$dir/results"
}

: >"$dir/results"
for round in $(seq "${ROUNDS:-1}"); do
  name=bench-$$-$round; bucket "$name"
  estate local "$(printf 'kind = "local"\npath = "store"')"
  estate s3 "$(printf 'kind = "s3"\nbucket = "%s"\nendpoint = "%s"' "$name" "$rgw_endpoint")"
  for who in local s3; do measure "$who" 'first backup' backup; done
  for who in local s3; do measure "$who" 'second backup' backup; done
  for who in local s3; do measure "$who" restore restore acme --at latest --to "$dir/$who/restored"; done
  for who in local s3; do sql postgres "SELECT pg_drop_replication_slot('lifeboat_$who') FROM pg_replication_slots WHERE slot_name = 'lifeboat_$who'" >/dev/null; done
done

source_bytes=$(($(sql postgres 'SELECT sum(pg_database_size(oid)) FROM pg_database') + $(du -sb "$dir/files" | cut -f1)))
echo "source $((source_bytes >> 20)) MiB; $profile build; Ceph from $rgw_release; load $(cut -d' ' -f1-3 /proc/loadavg), $(nproc) cores"
awk -F'\t' -v source="$source_bytes" '
  BEGIN { printf "%-14s %-6s %8s %7s %6s %7s %6s %6s %9s %9s\n", "step", "store", "wall s", "MiB/s", "puts", "extends", "gets", "lists", "MiB put", "MiB got" }
  { printf "%-14s %-6s %8.1f %7.1f %6d %7d %6d %6d %9.1f %9.1f\n", $1, $2, $3, source / 1048576 / $3, $4, $5, $6, $7, $8 / 1048576, $9 / 1048576
    if ($2 == "s3") printf "%-14s %-6s %8.2f\n", $1, "ratio", $3 / was; was = $3
    if ($2 == "s3" && $1 == "first backup") { puts = $4; stored = $8 } }
  END { printf "objects and PUTs per GB of source %.0f, per GB stored %.0f\n", puts * 1e9 / source, puts * 1e9 / stored }' "$dir/results"
