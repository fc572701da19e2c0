#!/usr/bin/env bash
# test.sh [filter...] - sets the machine up, builds, runs every test; says what was skipped and why.
# The last line is the test runner's own.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
. scripts/places.sh

logs=$(mktemp -d); trap 'rm -rf "$logs"' EXIT
export LIFEBOAT_SKIP_LOG=$logs/skipped; : > "$LIFEBOAT_SKIP_LOG"

cargo build --quiet --locked --all-targets
if command -v cargo-nextest >/dev/null; then
  run=(cargo nextest run --locked --no-fail-fast --status-level fail --final-status-level fail --color never)
else
  run=(cargo test --quiet --locked --no-fail-fast --)
fi
status=0
"${run[@]}" "$@" 2>&1 | tee "$logs/run" || status=$?

if [ -z "$shared" ]; then echo "skipped: all that needs acme and globex: ../shared (or \$LIFEBOAT_SHARED) is absent"; fi
if [ -z "${LIFEBOAT_ODOO:-}" ]; then echo "skipped: the real sign-in: no Odoo in $odoo"; fi
sort -u "$LIFEBOAT_SKIP_LOG" | sed 's/^/skipped: /'
grep -E '^ *Summary \[|^test result:' "$logs/run" | tail -1
exit "$status"
