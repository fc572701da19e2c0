#!/usr/bin/env bash
# demo.sh [demo's options] - the tour on this machine: three tenants protected, one damaged, brought back, drilled. See `lifeboat demo --help`.
#
# A dev build: dependencies (sealing, compressing, hashing) are optimised in it anyway, and a release build takes minutes for seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh --demo
. scripts/places.sh
cargo build --quiet --locked --bin lifeboat
exec "${CARGO_TARGET_DIR:-target}/debug/lifeboat" demo "$@"
