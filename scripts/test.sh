#!/usr/bin/env bash
# test.sh [--s3] [filter...] - sets the machine up, builds, runs every test; says what was skipped and why.
#
# --s3 runs the restore set (moments, cluster, asks, kills) with its stores in buckets of Ceph's gateway in place of folders.
# The last line is the test runner's own.
set -euo pipefail
cd "$(dirname "$0")/.."
only=()
if [ "${1:-}" = --s3 ]; then
  shift
  export LIFEBOAT_TEST_STORE=s3
  only=(--test restore_moments --test restore_cluster --test restore_asks --test crash --test s3_estate)
fi
scripts/setup.sh
. scripts/places.sh

logs=$(mktemp -d); trap 'rm -rf "$logs"' EXIT
export LIFEBOAT_SKIP_LOG=$logs/skipped; : > "$LIFEBOAT_SKIP_LOG"

if [ ${#only[@]} = 0 ]; then cargo build --quiet --locked --all-targets; fi
if command -v cargo-nextest >/dev/null; then
  run=(cargo nextest run "${only[@]}" --locked --no-fail-fast --status-level fail --final-status-level fail --color never)
else
  run=(cargo test "${only[@]}" --quiet --locked --no-fail-fast --)
fi
status=0
"${run[@]}" "$@" 2>&1 | tee "$logs/run" || status=$?

if [ -z "$shared" ]; then echo "skipped: all that needs acme and globex: ../shared (or \$LIFEBOAT_SHARED) is absent"; fi
if [ -z "${LIFEBOAT_ODOO:-}" ]; then echo "skipped: the real sign-in: no Odoo in $odoo"; fi
sort -u "$LIFEBOAT_SKIP_LOG" | sed 's/^/skipped: /'
grep -E '^ *Summary \[|^test result:' "$logs/run" | tail -1
exit "$status"
