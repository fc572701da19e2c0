#!/usr/bin/env bash
# ceph.sh - installs Ceph (monitor, one disk, S3 gateway) into the cache, without touching the system. Says nothing when it is there.
#
#   $cache/ceph/root      Debian packages, unpacked with all that they need, their own libc included
#   $cache/ceph/release   which Debian release they are from: forky (RGW 20), or the machine's own (bookworm: RGW 16)
# forky is tried first, as only RGW 20 keeps locks on multipart uploads and create-only puts; what the other cannot do is probed by
# the tests. Exits with 1, saying why, when neither can be had; tests on S3 are skipped then.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/places.sh

home=$cache/ceph
mkdir -p "$home"
exec 8>"$home/lock"; flock 8
[ -e "$home/release" ] && exit 0

# Debian's own list, one release only; the first paragraph is the main archive.
sources=/etc/apt/sources.list.d/debian.sources
[ -e "$sources" ] || { echo "ceph: $sources is absent: not a Debian machine" >&2; exit 1; }
own=$(. /etc/os-release && echo "$VERSION_CODENAME")

# fetch RELEASE : the packages of that release with everything below them, in $draft
fetch() {
  local apt=$draft/apt options
  mkdir -p "$apt"/lists/partial "$apt"/cache/archives/partial "$draft/root"
  : >"$apt/status" # nothing is installed, so everything is fetched, libc too
  awk 'BEGIN { RS = "" } NR == 1' "$sources" | sed "s/^Suites:.*/Suites: $1/" >"$apt/one.sources"
  options=(-o "Dir::Etc::sourcelist=$apt/one.sources" -o Dir::Etc::sourceparts=/nonexistent -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o "Dir::State::status=$apt/status" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" -qq update &&
    apt-get "${options[@]}" -qq -y --no-install-recommends --download-only install radosgw ceph-mon ceph-osd ceph-common || return 1
  for package in "$apt"/cache/archives/*.deb; do dpkg -x "$package" "$draft/root" || return 1; done
  rm -rf "$apt" "$draft"/root/usr/share/{doc,man,locale}
  local libraries=$draft/root/usr/lib/x86_64-linux-gnu
  [ -e "$libraries/ld-linux-x86-64.so.2" ] || libraries=$draft/root/lib/x86_64-linux-gnu # before /lib was merged into /usr
  "$libraries/ld-linux-x86-64.so.2" --library-path "$(libraries "$draft/root")" "$draft/root/usr/bin/radosgw" --version
}
libraries() { echo "$1/usr/lib/x86_64-linux-gnu:$1/usr/lib/x86_64-linux-gnu/ceph:$1/lib/x86_64-linux-gnu"; }

echo "ceph: fetching Ceph into $home (about a minute)" >&2
for release in forky "$own"; do
  draft=$home/draft; rm -rf "$draft" "$home/root"
  if fetch "$release" >"$home/install.log" 2>&1; then
    mv "$draft/root" "$home/root"; rm -rf "$draft"
    echo "$release" >"$home/release"
    exit 0
  fi
  tail -3 "$home/install.log" >&2
  echo "ceph: not to be had from Debian $release" >&2
done
rm -rf "$home/draft"
exit 1
