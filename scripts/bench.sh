#!/usr/bin/env bash
# bench.sh [--small] [--data] - lifeboat and pgBackRest on the same cluster, on the same machine, in one run; prints both and their ratio.
#
# Only ratios of one run count: the machine is shared and noisy. ROUNDS=3 takes medians; COLD=0 leaves the file cache as it is, which is
# steadier where others use the disk; RESTORE_DIR puts what is restored elsewhere (a tmpfs: the disk's own speed is left out). The dataset (4.2 GB; --small: some 150 MB, to try the
# script) is built once and kept in BENCH_DIR (default /var/tmp/lifeboat-bench); --data builds it and no more; delete the folder to be rid of it.
# 16 copies of acme, 16 of globex, 11 of initech, one database with pgbench and a 3-million-row table: with postgres and template1, 46 databases.
# pgBackRest: zstd 1, AES-256-CBC, bundles, 2 processes, local repository. lifeboat: as it comes, local store; each database its own tenant and key.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh --bench
. scripts/places.sh
[ -n "$shared" ] || { echo "bench: acme and globex are needed: set LIFEBOAT_SHARED" >&2; exit 2; }

copies=(16 16 11) scale=60 rows=3000000 kind=full only_data=
for option in "$@"; do
  case $option in
    --small) copies=(1 1 1) scale=2 rows=50000 kind=small ;;
    --data) only_data=1 ;;
    *) echo "bench: '$option' is no option (--small, --data)" >&2; exit 2 ;;
  esac
done
dir=${BENCH_DIR:-/var/tmp/lifeboat-bench}/$kind
bin=/usr/lib/postgresql/15/bin data=$dir/data
export PGHOST=$dir/s PGPORT=5432 PGUSER=postgres LC_ALL=C.UTF-8
unset PGPASSWORD PGDATABASE
mkdir -p "$dir/s"
server_user=() # the user that owns the cluster; pgBackRest has to be the same
if [ "$(id -u)" = 0 ]; then
  chown 65534:65534 "$dir" "$dir/s"
  server_user=(setpriv --reuid=65534 --regid=65534 --clear-groups)
fi

postmaster=
start() {
  "${server_user[@]}" "$bin/postgres" -D "$data" -k "$dir/s" -c listen_addresses= >>"$dir/server.log" 2>&1 & postmaster=$!
  for _ in $(seq 200); do psql -XAtqc 'SELECT 1' postgres >/dev/null 2>&1 && return; sleep 0.1; done
  tail -5 "$dir/server.log" >&2; exit 1
}
streamer=
stop() {
  if [ -n "$streamer" ]; then kill -TERM "$streamer" 2>/dev/null || true; wait "$streamer" || true; streamer=; fi
  if [ -n "$postmaster" ]; then kill -INT "$postmaster" 2>/dev/null || true; wait "$postmaster" || true; postmaster=; fi
}
trap stop EXIT
sql() { psql -XAtq -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }

build() {
  echo "bench: building the dataset in $data (once)" >&2
  rm -rf "$data"
  "${server_user[@]}" "$bin/initdb" -U postgres -E UTF8 --locale=C.UTF-8 --auth=trust --no-sync -k -D "$data" >/dev/null
  cat >>"$data/postgresql.conf" <<CONF
wal_level = replica
max_wal_size = 8GB
shared_buffers = 1GB
max_slot_wal_keep_size = 20GB
archive_mode = on
archive_command = '/bin/true'
autovacuum = off
CONF
  start
  psql -Xq -d postgres -f "$shared/odoo/roles.sql"
  sql postgres "CREATE ROLE lifeboat LOGIN REPLICATION IN ROLE pg_read_all_data, pg_monitor"
  local number=0 tenant
  for tenant in acme globex initech; do
    sh "$shared/odoo/load.sh" "$shared/odoo/$tenant.dump.zst" "${tenant}1" "odoo_$tenant"
    for copy in $(seq 2 "${copies[$number]}"); do sql postgres "CREATE DATABASE $tenant$copy TEMPLATE ${tenant}1 OWNER odoo_$tenant"; done
    number=$((number + 1))
  done
  sql postgres 'CREATE DATABASE bench'
  "$bin/pgbench" -q -i -s "$scale" bench >/dev/null 2>&1
  sql bench "CREATE TABLE wide AS SELECT g AS id, md5(g::text) || md5((g * 7)::text) || md5((g * 13)::text) || encode(sha512(g::text::bytea), 'base64') AS body FROM generate_series(1, $rows) g"
  sql bench 'ALTER TABLE wide ADD PRIMARY KEY (id)'
  sql postgres CHECKPOINT
  touch "$dir/built"
  stop
}
[ -e "$dir/built" ] || build
if [ -n "$only_data" ]; then exit 0; fi
lifeboat_bin=${LIFEBOAT_BIN:-}
if [ -z "$lifeboat_bin" ]; then
  cargo build --quiet --release --locked --bin lifeboat
  lifeboat_bin=${CARGO_TARGET_DIR:-$PWD/target}/release/lifeboat
fi

# measure STEP WHO COMMAND... : one line in results: step, who, wall s, CPU s (of the command and its children), peak MiB, exit code
results=$dir/results.tsv; : > "$results"
measure() {
  local step=$1 who=$2 code=0; shift 2
  sync; if [ "${COLD:-1}" = 1 ] && [ -w /proc/sys/vm/drop_caches ]; then echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true; fi
  /usr/bin/time -q -f '%e %U %S %M' -o "$dir/time" "$@" >"$dir/last.out" 2>"$dir/last.err" || code=$?
  # A run that says nothing did nothing: its time is no figure.
  if [ "$who" = lifeboat ] && ! jq -es '.[-1].outcome == "ok" or .[-1].outcome == "warnings"' "$dir/last.out" >/dev/null 2>&1; then
    [ "$code" != 0 ] || code=99
  fi
  read -r wall user system peak < <(tail -1 "$dir/time")
  awk -v OFS='\t' -v s="$step" -v w="$who" -v e="$wall" -v u="$user" -v y="$system" -v m="$peak" -v c="$code" \
    'BEGIN { print s, w, e, u + y, int(m / 1024), c }' | tee -a "$results"
  if [ "$code" != 0 ] && [ "$code" != 3 ]; then tail -3 "$dir/last.err" | sed 's/^/    /' >&2; fi
}
stored() { du -smc "$@" 2>/dev/null | tail -1 | cut -f1 || true; }
fact() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" | tee -a "$dir/facts.tsv"; }
: > "$dir/facts.tsv"

rest() { "${server_user[@]}" pgbackrest --config="$dir/pgbackrest.conf" --stanza=main "$@"; }
boat() { "$lifeboat_bin" --config "$dir/estate/lifeboat.toml" --json "$@"; }
rest_argv=("${server_user[@]}" pgbackrest --config="$dir/pgbackrest.conf" --stanza=main)
boat_argv=("$lifeboat_bin" --config "$dir/estate/lifeboat.toml" --json)

fresh() { # an empty repository and an empty estate
  rm -rf "$dir/repo" "$dir/estate" "$dir/work"; mkdir -p "$dir"/{repo,estate/store,work}
  sql postgres "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active" >/dev/null
  cat >"$dir/pgbackrest.conf" <<CONF
[global]
repo1-path=$dir/repo
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=only-for-the-benchmark
repo1-bundle=y
compress-type=zst
compress-level=1
process-max=2
start-fast=y
archive-async=y
spool-path=$dir/work
log-path=$dir/work
lock-path=$dir/work
log-level-console=warn
[main]
pg1-path=$data
pg1-socket-path=$dir/s
pg1-user=postgres
CONF
  if [ "$(id -u)" = 0 ]; then chown -R 65534:65534 "$dir/repo" "$dir/work" "$dir/pgbackrest.conf"; fi
  chmod 600 "$dir/pgbackrest.conf"
  rest stanza-create
  archive "pgbackrest --config=$dir/pgbackrest.conf --stanza=main archive-push %p"
  {
    printf 'state_dir = "state"\n[estate]\nname = "bench"\n[store]\nkind = "local"\npath = "store"\n'
    printf '[keys]\nwriter = "writer.json"\nidentities = "identities"\nsigners = "allowed_signers"\n'
    printf '[clusters.main]\nhost = "%s"\nuser = "lifeboat"\n' "$dir/s"
    # Only the databases are compared: no attachment lies in a file. Locking two tables is what holding Odoo's collection needs.
    local prepare="DO \$\$ BEGIN IF to_regclass('ir_cron') IS NOT NULL THEN
      GRANT UPDATE ON ir_cron, ir_attachment TO lifeboat;
      UPDATE ir_attachment SET store_fname = NULL WHERE store_fname IS NOT NULL; END IF; END \$\$"
    for database in $(sql postgres "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"); do
      sql "$database" "$prepare" >&2
      printf '[tenants.%s]\ncluster = "main"\ndatabases = ["%s"]\n' "$database" "$database"
    done
  } >"$dir/estate/lifeboat.toml"
  boat init >/dev/null || true
}
archive() { sql postgres "ALTER SYSTEM SET archive_command = '$1'"; sql postgres 'SELECT pg_reload_conf()' >/dev/null; }

round() {
  fresh
  boat stream --once >/dev/null 2>&1 || true # makes the slot, so that both have the same WAL to carry
  "${boat_argv[@]}" stream >"$dir/stream.out" 2>&1 & streamer=$! # not the function: the signal must reach the program
  measure 'full backup' pg_basebackup bash -c "'$bin/pg_basebackup' -D - -Ft -X none -c fast | cat >/dev/null"
  measure 'full backup' pgbackrest "${rest_argv[@]}" --type=full backup
  measure 'full backup' lifeboat "${boat_argv[@]}" backup
  local was_rest was_boat; was_rest=$(stored "$dir/repo") was_boat=$(stored "$dir/estate/store")
  fact 'stored MiB' pgbackrest "$was_rest"; fact 'stored MiB' lifeboat "$was_boat"

  measure 'incremental, unchanged' pg_basebackup bash -c "'$bin/pg_basebackup' -D - -Ft -X none -c fast | cat >/dev/null"
  measure 'incremental, unchanged' pgbackrest "${rest_argv[@]}" --type=incr backup
  measure 'incremental, unchanged' lifeboat "${boat_argv[@]}" backup

  was_rest=$(stored "$dir/repo/backup") was_boat=$(stored "$dir"/estate/store/*/*/packs)
  sql bench 'UPDATE wide SET body = reverse(body) WHERE id % 100 = 7'; sql postgres CHECKPOINT
  measure 'incremental, 1 %' pgbackrest "${rest_argv[@]}" --type=incr backup
  measure 'incremental, 1 %' lifeboat "${boat_argv[@]}" backup
  fact '1 % stored MiB' pgbackrest $(($(stored "$dir/repo/backup") - was_rest))
  fact '1 % stored MiB' lifeboat $(($(stored "$dir"/estate/store/*/*/packs) - was_boat))

  restore_both 'full restore' "--all --cluster main" ""
  restore_both 'one tenant of many' acme1 --db-include=acme1
  kill -TERM "$streamer" 2>/dev/null || true; wait "$streamer" || true; streamer=
  drain
}

# restore_both STEP LIFEBOAT-WHAT PGBACKREST-OPTION : pgBackRest without its WAL replay, lifeboat with it
restore_both() {
  local to=${RESTORE_DIR:-$dir/restored}
  rm -rf "$to"; mkdir "$to"; mkdir -m 700 "$to/pgbackrest"
  if [ "$(id -u)" = 0 ]; then chown 65534:65534 "$to/pgbackrest"; fi
  # shellcheck disable=SC2086
  measure "$1" pgbackrest "${rest_argv[@]}" --pg1-path="$to/pgbackrest" $3 restore
  rm -rf "$to/pgbackrest"
  # shellcheck disable=SC2086
  measure "$1" lifeboat "${boat_argv[@]}" restore $2 --at latest --to "$to/lifeboat"
  if [ -e "$to/lifeboat/restore.json" ]; then
    fact "$1, MiB read" lifeboat "$(jq '.bytes_read / 1048576 | floor' "$to/lifeboat/restore.json")"
  fi
  rm -rf "$to"
}

# The same backlog for both: WAL written while neither takes it.
drain() {
  archive ''
  local from to; from=$(sql postgres 'SELECT pg_current_wal_lsn()')
  "$bin/pgbench" -n -c 4 -j 2 -t "$((scale * 400))" bench >/dev/null 2>&1
  sql postgres 'SELECT pg_switch_wal()' >/dev/null
  to=$(sql postgres "SELECT pg_walfile_name(pg_current_wal_lsn() - 1)")
  fact 'backlog MiB' both "$(sql postgres "SELECT (pg_current_wal_lsn() - '$from'::pg_lsn)::bigint / 1048576")"
  export -f sql; export -f archive
  measure 'WAL backlog' lifeboat "${boat_argv[@]}" stream --once
  # The archiver runs inside the server: the time until the last segment is in, CPU of its workers not included.
  measure 'WAL backlog' pgbackrest bash -c "archive 'pgbackrest --config=$dir/pgbackrest.conf --stanza=main archive-push %p'
    until [ \"\$(sql postgres \"SELECT last_archived_wal >= '$to' FROM pg_stat_archiver\")\" = t ]; do sleep 0.1; done"
}

start
for _ in $(seq "${ROUNDS:-1}"); do round; done
archive /bin/true

echo; echo "medians of ${ROUNDS:-1} round(s); each ratio is lifeboat / pgBackRest; load $(cut -d' ' -f1-3 /proc/loadavg), $(nproc) cores"
awk -F'\t' '
  function median(list, count,  sorted, i, j, t) { for (i = 1; i <= count; i++) sorted[i] = list[i]
    for (i = 2; i <= count; i++) for (j = i; j > 1 && sorted[j] < sorted[j-1]; j--) { t = sorted[j]; sorted[j] = sorted[j-1]; sorted[j-1] = t }
    return sorted[int((count + 1) / 2)] }
  function value(step, who, column,  i, list, count) { count = n[step, who]
    for (i = 1; i <= count; i++) list[i] = cell[step, who, column, i]
    return median(list, count) }
  function ratio(step, column,  below) { below = value(step, "pgbackrest", column)
    return below > 0 ? sprintf("%.2f", value(step, "lifeboat", column) / below) : "-" }
  { i = ++n[$1, $2]; for (column = 3; column <= 5; column++) cell[$1, $2, column, i] = $column
    if ($6 != 0 && $6 != 3) bad[$1, $2] = 1; if (!seen[$1]++) steps[++count] = $1 }
  END {
    split("pg_basebackup pgbackrest lifeboat", names, " ")
    printf "%-26s %-14s %9s %9s %9s\n", "step", "who", "wall s", "CPU s", "RSS MiB"
    for (i = 1; i <= count; i++) { s = steps[i]
      for (k = 1; k <= 3; k++) if (n[s, names[k]])
        printf "%-26s %-14s %9.1f %9.1f %9d%s\n", s, names[k], value(s, names[k], 3), value(s, names[k], 4), value(s, names[k], 5), bad[s, names[k]] ? "  FAILED" : ""
      if (n[s, "lifeboat"] && n[s, "pgbackrest"] && !bad[s, "lifeboat"] && !bad[s, "pgbackrest"])
        printf "%-26s %-14s %9s %9s %9s\n", s, "ratio", ratio(s, 3), ratio(s, 4), ratio(s, 5) } }' "$results"
echo; awk -F'\t' '{ print; if ($1 in rest && $2 == "lifeboat" && rest[$1] > 0) printf "%s\tratio\t%.2f\n", $1, $3 / rest[$1]; if ($2 == "pgbackrest") rest[$1] = $3 }' "$dir/facts.tsv"
