#!/usr/bin/env bash
# rgw.sh - an S3 server with real locks for tests and benches: Ceph's monitor, one disk in a sparse file, and its gateway.
#
#   scripts/rgw.sh up      starts it where it does not run, and prints what is needed to use it, one NAME=VALUE per line
#   scripts/rgw.sh down    stops it
#   scripts/rgw.sh admin ARGUMENT...    radosgw-admin
#
# One server for everybody on the machine who shares the cache. Whoever uses it holds a shared lock (flock) on $run/users, which the
# kernel drops when he dies. A watchdog that started with the server stops it and removes its data when nobody has held it for a while.
# What an earlier boot, or a kill, left behind is cleaned up by the next `up`.
#
#   $run/address   what `up` prints; written last: the server is whole
#   $run/boot      the kernel's id of the boot it was started in
#   $run/pids      its processes, one per line
#   $run/d         its data, sparse; $run/d/log its logs
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/places.sh

idle_rounds=6 idle_seconds=15
ceph=$cache/ceph root=$cache/ceph/root
[ -e "$ceph/release" ] || { echo "rgw: Ceph is not installed; see scripts/ceph.sh" >&2; exit 1; }
# Another recipe is another server.
run=$cache/rgw/$(cat scripts/rgw.sh "$ceph/release" | sha256sum | head -c 8)
d=$run/d
mkdir -p "$run"

libraries=$root/usr/lib/x86_64-linux-gnu
loader=$libraries/ld-linux-x86-64.so.2; [ -e "$loader" ] || loader=$root/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2
path=$libraries:$libraries/ceph:$root/lib/x86_64-linux-gnu
program() { local name=$1; shift; "$loader" --library-path "$path" --argv0 "$name" "$root/usr/bin/$name" "$@"; }
ceph() { # the client is written in Python, and takes the one that came with it
  PYTHONHOME=$root/usr PYTHONPATH=$root/usr/lib/python3/dist-packages PYTHONDONTWRITEBYTECODE=1 \
    "$loader" --library-path "$path" --argv0 python3 "$root"/usr/bin/python3 "$root/usr/bin/ceph" -c "$d/ceph.conf" "$@"
}
# A daemon outlives whoever started it: a session of its own, none of our files or locks.
daemon() {
  local name=$1; shift
  setsid "$loader" --library-path "$path" --argv0 "$name" "$root/usr/bin/$name" -c "$d/ceph.conf" "$@" -f \
    </dev/null >>"$d/log/$name.out" 2>&1 8>&- 9>&- &
  echo $! >>"$run/pids"
}
wait_for() { # wait_for WHAT COMMAND...
  local what=$1; shift
  for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  echo "rgw: no $what after a minute; see $d/log" >&2; return 1
}
free_ports() { python3 - "$1" <<'PY'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for s in held: s.bind(("127.0.0.1", 0))
print(*[s.getsockname()[1] for s in held])
PY
}

healthy() {
  [ -e "$run/address" ] && [ "$(cat "$run/boot")" = "$(cat /proc/sys/kernel/random/boot_id)" ] &&
    curl -sf -m 10 -o /dev/null "$(sed -n 's/^endpoint=//p' "$run/address")/"
}

# Stops by id, and only what is still ours: after another boot, or after years, a number may be anybody's.
stop() {
  local pid
  rm -f "$run/address"
  if [ -e "$run/pids" ] && [ "$(cat "$run/boot")" = "$(cat /proc/sys/kernel/random/boot_id)" ]; then
    while read -r pid; do
      if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$d/"; then kill -9 "$pid" 2>/dev/null || true; fi
    done <"$run/pids"
  fi
  rm -rf "$run/pids" "$run/boot" "$d"
}

configure() {
  read -r mon1 mon2 http https <<<"$(free_ports 4)"
  mkdir -p "$d"/{mon,osd/0,rgw,run,log}
  certificates >"$d/log/openssl.out" 2>&1
  cat >"$d/ceph.conf" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$mon1,v1:127.0.0.1:$mon2]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = $d/keyring
run dir = $d/run
pid file = $d/run/\$name.pid
admin socket = $d/run/\$name.asok
log file = $d/log/\$name.log
crash dir = $d/run
paxos propose interval = 0.05
paxos min wait = 0.01
mon tick interval = 1
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon max pg per osd = 1000
osd class dir = $libraries/rados-classes
erasure code dir = $libraries/ceph/erasure-code
plugin dir = $libraries/ceph
mon osd full ratio = 0.98
mon osd nearfull ratio = 0.97
mon osd backfillfull ratio = 0.975
[mon]
mon data = $d/mon
mon data avail crit = 1
[osd]
osd data = $d/osd/0
osd objectstore = bluestore
bluestore block size = 21474836480
osd memory target = 939524096
[client.rgw.a]
rgw data = $d/rgw
rgw frontends = beast endpoint=127.0.0.1:$http ssl_endpoint=127.0.0.1:$https ssl_certificate=$d/tls.pem tcp_nodelay=1
rgw exit timeout secs = 1
rgw s3 auth use sts = true
rgw sts key = lifeboat-testing
CONF
}

# $d/ca.pem, which signed what is in $d/tls.pem.
certificates() {
  local new=(openssl req -newkey rsa:2048 -nodes)
  "${new[@]}" -x509 -days 3650 -subj '/CN=lifeboat tests, CA' -keyout "$d/ca.key" -out "$d/ca.pem"
  "${new[@]}" -subj '/CN=lifeboat tests' -keyout "$d/tls.key" -out "$d/tls.csr"
  openssl x509 -req -days 3650 -in "$d/tls.csr" -CA "$d/ca.pem" -CAkey "$d/ca.key" -CAcreateserial -out "$d/tls.crt" \
    -extfile <(echo 'subjectAltName = IP:127.0.0.1, DNS:localhost')
  cat "$d/tls.crt" "$d/tls.key" >"$d/tls.pem"
}

keyring() {
  program ceph-authtool --create-keyring "$d/keyring" --gen-key -n mon. --cap mon 'allow *'
  program ceph-authtool "$d/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  program ceph-authtool "$d/keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' --cap mgr 'allow profile osd'
  program ceph-authtool "$d/keyring" --gen-key -n client.rgw.a --cap mon 'allow rw' --cap osd 'allow rwx'
}

start() {
  local fsid osd
  fsid=$(cat /proc/sys/kernel/random/uuid) osd=$(cat /proc/sys/kernel/random/uuid)
  cat /proc/sys/kernel/random/boot_id >"$run/boot"
  configure
  keyring
  program monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon1,v1:127.0.0.1:$mon2]" "$d/monmap"
  program ceph-mon -c "$d/ceph.conf" -i a --mkfs --monmap "$d/monmap" --keyring "$d/keyring"
  cp "$d/keyring" "$d/mon/keyring"
  daemon ceph-mon -i a
  wait_for monitor test -S "$d/run/mon.a.asok"
  ceph osd new "$osd" 0
  program ceph-osd -c "$d/ceph.conf" -i 0 --mkfs --osd-uuid "$osd"
  daemon ceph-osd -i 0
  ceph osd crush set osd.0 1.0 root=default host=h1
  daemon radosgw -n client.rgw.a
  wait_for gateway curl -sf -m 5 "http://127.0.0.1:$http/"
  local secret; secret=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')
  admin user create --uid=admin --display-name=admin --access-key=LIFEBOATADMIN --secret-key="$secret" \
    --caps='users=*;buckets=*;roles=*;user-policy=*;oidc-provider=*;accounts=*'
  printf '%s\n' "users=$run/users" "endpoint=http://127.0.0.1:$http" "tls_endpoint=https://127.0.0.1:$https" "ca_file=$d/ca.pem" \
    access_key=LIFEBOATADMIN "secret_key=$secret" "release=$(cat "$ceph/release")" >"$run/address.new"
  mv "$run/address.new" "$run/address"
  setsid bash -c "exec '$PWD/scripts/rgw.sh' watch" </dev/null >>"$run/watch.log" 2>&1 8>&- 9>&- &
}

admin() { program radosgw-admin -c "$d/ceph.conf" -n client.admin "$@"; }

# Whoever starts it or looks for it holds the other lock meanwhile; between that and his own lock are milliseconds, not rounds.
watch() {
  local idle=0 mine; mine=$(cat "$run/address")
  exec 9>>"$run/users" 8>"$run/starting"
  while :; do
    sleep "$idle_seconds"
    flock 8
    [ "$(cat "$run/address" 2>/dev/null)" = "$mine" ] || exit 0 # another server, another watchdog
    if flock -n -x 9; then idle=$((idle + 1)); else idle=0; fi
    if [ "$idle" -ge "$idle_rounds" ]; then stop; exit 0; fi
    flock -u 9; flock -u 8
  done
}

case ${1:-} in
  up)
    exec 8>"$run/starting"; flock 8
    if ! healthy; then
      stop
      start >"$run/start.log" 2>&1 || { tail -5 "$run/start.log" >&2; stop; exit 1; }
    fi
    cat "$run/address" ;;
  down) exec 8>"$run/starting"; flock 8; stop ;;
  watch) watch ;;
  admin) shift; admin "$@" ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
