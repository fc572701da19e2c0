#!/bin/sh
# Makes WAL segments from opened spans without lifeboat: sh, awk, coreutils (basenc, if there is one, makes it fast).
#   lay-wal.sh SPANS OUT SEGMENT_BYTES TIMELINE SYSTEM_ID
# SPANS: a folder with one folder per stretch, named FROM-TO as the stretch is (16 hex digits each), without gap or
# overlap; in it `cluster`, the cluster's share, and any number of other files, the shares to lay over it, all opened
# (docs/FORMAT.md, "Span"). OUT: a new folder. TIMELINE and SYSTEM_ID: decimal, as the point's facts have them.
set -eu
spans=$1 out=$2 segment=$3 timeline=$4 system=$5
export LC_ALL=C
mkdir "$out"
stream=$out/stream

if command -v basenc >/dev/null; then
    hex() { basenc --base16 -w4096 "$1"; }
    unhex() { basenc -d -i --base16; }
else # the same, ten times slower
    hex() { od -An -v -tx1 "$1" | tr -d ' \n' | tr a-f A-F | fold -w 4096 && echo; }
    unhex() {
        fold -w 4096 | awk 'BEGIN { for (i = 0; i < 256; i++) octal[sprintf("%02X", i)] = sprintf("\\%03o", i) }
            { s = ""; for (i = 1; i < length; i += 2) s = s octal[substr($0, i, 2)]; print "printf \047" s "\047" }' | sh
    }
fi

# Bytes as lines of 4096 hex digits; each file begins on a new line, after a line "-". The cluster's is the first.
lay='
function number(at, n,  v) { while (n-- > 0) v = v * 256 + value[substr(line[int((at + n) / 2048)], 2 * ((at + n) % 2048) + 1, 2)]; return v }
function put(at, n,  m) {
    for (; n > 0; n -= m) {
        m = 2048 - at % 2048; if (m > n) m = n
        printf "%s", substr(line[int(at / 2048)], 2 * (at % 2048) + 1, 2 * m); at += m
    }
}
function stop(why) { print "lay-wal.sh: " why > "/dev/stderr"; exit 1 }
BEGIN { for (i = 0; i < 256; i++) value[sprintf("%02X", i)] = i }
$0 == "-" { first[files++] = lines + 0; next }
length { line[lines++] = $0 }
END {
    for (f = 0; f < files; f++) {
        start = first[f] * 2048
        if (substr(line[first[f]], 1, 32) != "6C696665626F61742D7370616E20310A") stop("not a span of version 1")
        left[f] = number(start + 16, 4); mixed = number(start + 20, 4); at[f] = start + 24 + 8 * mixed
        if (left[f]) lsn[f] = number(at[f], 8)
        if (f && mixed && sharing++) stop("records of several shares are mixed: their checksums need lifeboat")
    }
    if (left[0] != 1) stop("the share of the cluster is not in one piece")
    from = pos = lsn[0]; end = from + number(at[0] + 8, 4); body = at[0] + 12
    for (;;) {
        b = 0
        for (f = 1; f < files; f++) if (left[f] && (!b || lsn[f] < lsn[b])) b = f
        if (!b) break
        n = number(at[b] + 8, 4)
        if (lsn[b] < pos || lsn[b] + n > end) stop("a share lies outside of its stretch")
        put(body + pos - from, lsn[b] - pos); put(at[b] + 12, n); pos = lsn[b] + n
        at[b] += 12 + n; if (--left[b]) lsn[b] = number(at[b], 8)
    }
    put(body + pos - from, end - pos)
}'

begin='' next=''
for stretch in "$spans"/*; do
    range=${stretch##*/} from=$((0x${range%-*})) to=$((0x${range#*-}))
    if [ -z "$begin" ]; then # what lies before it in its segment stays empty
        begin=$from lead=$((from % segment)) next=$from
        truncate -s "$lead" "$stream"
    fi
    [ "$from" = "$next" ] || { echo "lay-wal.sh: nothing between $next and $from" >&2; exit 1; }
    for share in "$stretch"/cluster $(ls -d "$stretch"/* | grep -v '/cluster$'); do echo -; hex "$share"; done |
        awk "$lay" | unhex >>"$stream"
    next=$to
    [ "$(wc -c <"$stream")" = $((lead + next - begin)) ] || { echo "lay-wal.sh: $range is not whole" >&2; exit 1; }
done

# A server reads the header of a segment's first page and of the page it begins in. They are made up where they were not stored.
bytes() { v=$1 n=$2; while [ "$n" -gt 0 ]; do printf "\\$(printf %03o $((v & 255)))"; v=$((v >> 8)) n=$((n - 1)); done; }
page() { # POSITION FLAGS: its magic is that of the first page that was stored whole
    dd if="$stream" bs=1 skip=$((lead + (8192 - begin % 8192) % 8192)) count=2 2>/dev/null
    bytes "$2" 2; bytes "$timeline" 4; bytes "$1" 8; bytes 0 8
    if [ "$2" = 2 ]; then bytes "$system" 8; bytes "$segment" 4; bytes 8192 4; fi
}
if [ "$lead" -gt 0 ]; then
    if [ $((begin % 8192)) -gt 0 ]; then
        page $((begin - begin % 8192)) 0 | dd of="$stream" bs=1 seek=$((lead - begin % 8192)) conv=notrunc 2>/dev/null
    fi
    page $((begin - lead)) 2 | dd of="$stream" bs=1 conv=notrunc 2>/dev/null
fi

split -a 5 -b "$segment" "$stream" "$out/piece."
rm "$stream"
number=$((begin / segment)) per=$((4294967296 / segment))
for piece in "$out"/piece.*; do
    truncate -s "$segment" "$piece"
    mv "$piece" "$out/$(printf %08X%08X%08X "$timeline" $((number / per)) $((number % per)))"
    number=$((number + 1))
done
