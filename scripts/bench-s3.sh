#!/usr/bin/env bash
# bench-s3.sh - backup, WAL and restore of acme and globex with a large filestore to a bucket (Ceph on this machine) and to a folder, in
# one run; prints both, their ratio, and requests and objects beside what docs/FORMAT.md bounds them by.
#
# Only ratios of one run count: the machine is shared and noisy, and the S3 server takes its part of it. ROUNDS=3 takes more samples;
# each is printed. FILES_MIB=1024: how much is added to acme's filestore (files of 4 KiB to 2 MiB, incompressible); STREAM_SECONDS=30: how
# long both databases write under the stream. Requests are counted from the store's log. PROFILE=release builds and takes a release build.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
. scripts/places.sh
[ -n "$shared" ] || { echo "bench: acme and globex are needed: set LIFEBOAT_SHARED" >&2; exit 2; }
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
mkdir "$dir/files"
for tenant in acme globex; do
  sql postgres "CREATE DATABASE $tenant TEMPLATE template0"
  sql $tenant 'CREATE EXTENSION pg_trgm; CREATE EXTENSION unaccent; ALTER FUNCTION unaccent(text) IMMUTABLE'
  zstd -qdc "$shared/odoo/$tenant.dump.zst" >"$dir/dump"
  "$bin/pg_restore" --no-owner --exit-on-error -j2 -d $tenant "$dir/dump"
  zstd -qdc "$shared/odoo/$tenant.filestore.tar.zst" | tar -x -C "$dir/files"
  "$bin/pgbench" -q -i -s 5 $tenant >/dev/null 2>&1 # what will be written to under the stream
done
rm "$dir/dump"
# As Odoo names them: SHA-1 of the content, in a folder of its first two digits. Old, as most attachments are: the stream ships new ones.
python3 - "$dir/files/acme" "${FILES_MIB:-1024}" <<'PY'
import hashlib, os, random, sys
left, dice = int(sys.argv[2]) << 20, random.Random(3)
while left > 0:
    content = os.urandom(min(left, int(4096 * 2 ** dice.uniform(0, 9))))
    name = hashlib.sha1(content).hexdigest()
    os.makedirs(f"{sys.argv[1]}/{name[:2]}", exist_ok=True)
    with open(f"{sys.argv[1]}/{name[:2]}/{name}", "wb") as file: file.write(content)
    os.utime(f"{sys.argv[1]}/{name[:2]}/{name}", (1.7e9, 1.7e9))
    left -= len(content)
PY
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
    "slot = \"lifeboat_$1\"" '[tenants.acme]' 'cluster = "main"' 'databases = ["acme"]' "filestore = \"$dir/files\"" \
    '[tenants.globex]' 'cluster = "main"' 'databases = ["globex"]' "filestore = \"$dir/files\"" >"$home/lifeboat.toml"
  "$boat" --config "$home/lifeboat.toml" --json init --spares 4 >/dev/null
}

measure() { # measure WHO STEP ARGUMENT... : seconds and requests, as a line of results
  local who=$1 step=$2 begun code=0; shift 2
  rm -f "$dir/calls"
  begun=$(date +%s.%N)
  LIFEBOAT_STORE_LOG=$dir/calls "$boat" --config "$dir/$who/lifeboat.toml" --json "$@" >"$dir/out" 2>"$dir/err" || code=$?
  local seconds; seconds=$(echo "$(date +%s.%N) - $begun" | bc)
  case $code in 0 | 3) ;; *) cat "$dir/out" "$dir/err" >&2; echo "bench: $who $step: exit $code" >&2; exit 1 ;; esac
  counted "$who" "$step" "$seconds"
}

counted() { # counted WHO STEP SECONDS : what the store's log says
  jq -rs --arg who "$1" --arg step "$2" --argjson seconds "$3" '
    def count(op): map(select(.op == op)) | length; def bytes(op): map(select(.op == op) | .bytes) | add // 0;
    [$step, $who, $seconds, count("put"), count("extend"), count("get"), count("list"), bytes("put"), bytes("get")] | @tsv' "$dir/calls" >>"$dir/results"
  cp "$dir/calls" "$dir/calls.$1.${2// /-}"
}

wal() { # wal WHO : both databases write for a while under a stream
  local who=$1 begun code=0 stream loads=()
  rm -f "$dir/calls"
  wal_from=$(sql postgres 'SELECT pg_current_wal_lsn()') begun=$(date +%s.%N)
  LIFEBOAT_STORE_LOG=$dir/calls "$boat" --config "$dir/$who/lifeboat.toml" --json stream >"$dir/out" 2>"$dir/err" & stream=$!
  for tenant in acme globex; do "$bin/pgbench" -n -T "${STREAM_SECONDS:-30}" $tenant >/dev/null 2>&1 & loads+=($!); done
  wait "${loads[@]}"
  kill -TERM $stream; wait $stream || code=$?
  case $code in 0 | 3) ;; *) tail -5 "$dir/out" "$dir/err" >&2; echo "bench: $who stream: exit $code" >&2; exit 1 ;; esac
  wal_bytes=$(sql postgres "SELECT pg_current_wal_lsn() - '$wal_from'")
  counted "$who" stream "$(echo "$(date +%s.%N) - $begun" | bc)"
}

# What was put, beside docs/FORMAT.md's bounds. A backup: packs of about 32 MiB stored (the last of a set may be smaller), four objects per
# set, three per point, and per scope what lies there for recovery by hand; WAL that it waited for is counted as such.
bounds() {
  jq -rs '
    map(select(.op == "put" and .ok)) | def those(re): map(select(.name | test(re)));
    (those("/packs/")) as $packs | (those("/sets/")) as $sets | (those("/points/")) as $points | (those("^wal/|/wal/")) as $wal
    | ($sets | those("envelope.json$") | length) as $n | ($points | those("envelope.json$") | length) as $p | ($packs | map(.bytes) | add // 0) as $bytes
    | ($bytes / 33554432 | ceil) as $full | (map(.bytes) | add) as $all
    | "first backup, s3: \(length) PUTs for \($all / 1048576 | round) MiB stored: \($packs | length) packs (bound: bytes / 32 MiB + 1 per set = \($full) + \($n)), mean \($bytes / ($packs | length) / 104857.6 | round / 10) MiB, greatest \($packs | map(.bytes) | max / 104857.6 | round / 10);",
      "  \($sets | length) of \($n) sets (bound 4 each = \(4 * $n)); \($points | length) of \($p) points (bound 3 each = \(3 * $p)); \($wal | length) of WAL; \(length - ($packs + $sets + $points + $wal | length)) for recovery by hand and heads",
      "  per GB stored: \(length * 1e9 / $all * 10 | round / 10) PUTs, of them \(($packs | length) * 1e9 / $all * 10 | round / 10) packs (32 MiB each would be 29.8)"' "$dir/calls.s3.first-backup"
  jq -rs --argjson wal "$wal_bytes" '
    map(select(.op == "put" and .ok)) | def those(re): map(select(.name | test(re)));
    (those("/tail/.*envelope.json$") | length) as $flushes | (those("^wal/") | those("envelope.json$") | length - $flushes) as $stretches
    | (those("/tail/") | length) as $tail | (those("span.zst.age$") | length) as $spans
    | (those("^wal/") | length - $tail) as $stretch | ($wal / 8388608 * 10 | round / 10) as $eighths
    | "stream, s3: \(length) PUTs for \($wal / 1048576 | round) MiB of WAL: \($tail) of \($flushes) flushes, \($stretch) of \($stretches) stretches, \($spans) spans of 1 MiB and more, \(length - $tail - $stretch - $spans) others",
      "  bound bytes / 8 MiB + flushes + 3 per stretch = \($eighths) + \($flushes) + \(3 * $stretches) = \($eighths + $flushes + 3 * $stretches) (a flush taken for the three objects it is: \($eighths + 3 * $flushes + 3 * $stretches))",
      "  per GB of WAL: \(length * 1e9 / $wal | round) PUTs; without the flushes, which are by time: \((length - $tail) * 1e9 / $wal | round)"' "$dir/calls.s3.stream"
}

: >"$dir/results"
for round in $(seq "${ROUNDS:-1}"); do
  name=bench-$$-$round; bucket "$name"
  estate local "$(printf 'kind = "local"\npath = "store"')"
  estate s3 "$(printf 'kind = "s3"\nbucket = "%s"\nendpoint = "%s"' "$name" "$rgw_endpoint")"
  for who in local s3; do measure "$who" 'first backup' backup; done
  for who in local s3; do measure "$who" 'second backup' backup; done
  for who in local s3; do wal "$who"; done
  for who in local s3; do measure "$who" restore restore acme --at latest --to "$dir/$who/restored"; done
  for who in local s3; do sql postgres "SELECT pg_drop_replication_slot('lifeboat_$who') FROM pg_replication_slots WHERE slot_name = 'lifeboat_$who'" >/dev/null; done
done

source_bytes=$(($(sql postgres 'SELECT sum(pg_database_size(oid)) FROM pg_database') + $(du -sb "$dir/files" | cut -f1)))
echo "source $((source_bytes >> 20)) MiB; $profile build; Ceph from $rgw_release; load $(cut -d' ' -f1-3 /proc/loadavg), $(nproc) cores"
awk -F'\t' -v source="$source_bytes" '
  BEGIN { printf "%-14s %-6s %8s %7s %6s %7s %6s %6s %9s %9s\n", "step", "store", "wall s", "MiB/s", "puts", "extends", "gets", "lists", "MiB put", "MiB got" }
  { speed = $1 == "stream" ? "" : sprintf("%.1f", source / 1048576 / $3)
    printf "%-14s %-6s %8.1f %7s %6d %7d %6d %6d %9.1f %9.1f\n", $1, $2, $3, speed, $4, $5, $6, $7, $8 / 1048576, $9 / 1048576
    if ($2 == "s3" && $1 != "stream") printf "%-14s %-6s %8.2f\n", $1, "ratio", $3 / was; was = $3
    if ($2 == "s3" && $1 == "first backup") puts = $4 }
  END { printf "first backup: objects and PUTs per GB of source %.1f\n", puts * 1e9 / source }' "$dir/results"
bounds
