#!/usr/bin/env bash
# check.sh - everything that CI asks: formatting, lints, dependencies, tests. Green here is green there.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
. scripts/places.sh
cargo fmt --check
cargo clippy --quiet --locked --all-targets -- -D warnings
if command -v cargo-deny >/dev/null && [ -e deny.toml ]; then
  cargo deny --log-level error check bans licenses sources
else
  echo "skipped: cargo deny (not installed, or no deny.toml)"
fi
scripts/test.sh
