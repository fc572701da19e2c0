# places.sh - where things are, for the other scripts (sourced). Sets: shared, cache, odoo, and exports what tests read.
# shellcheck shell=bash disable=SC2034

# The larger test tenants and the Odoo installer; empty where they are not at hand.
shared=
for place in "${LIFEBOAT_SHARED:-}" ../shared ../../shared; do
  if [ -z "$shared" ] && [ -n "$place" ] && [ -f "$place/odoo/acme.dump.zst" ]; then shared=$(cd "$place" && pwd); fi
done

# What is kept between runs, outside the repository. Servers run as another user when we are root, and /root is closed to them.
if [ -n "${LIFEBOAT_CACHE:-}" ]; then cache=$LIFEBOAT_CACHE
elif [ "$(id -u)" = 0 ]; then cache=/var/cache/lifeboat
else cache=${XDG_CACHE_HOME:-$HOME/.cache}/lifeboat; fi
mkdir -p "$cache"
odoo=$cache/odoo19

export LIFEBOAT_CACHE=$cache
if [ -n "$shared" ]; then export LIFEBOAT_SHARED=$shared; fi
if [ -e "$odoo/venv/ready" ]; then export LIFEBOAT_ODOO=$odoo; fi
# CI starts from a clean clone each time: keep what the compiler made.
if [ "${CI:-}" = true ]; then export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}; fi
