#!/usr/bin/env bash
# Recovers the files of one set without lifeboat: bash, ssh-keygen, age, zstd, tar, jq, openssl, awk, coreutils.
#   recover-set.sh BUCKET ENVELOPE KEY SIGNERS OUT
# BUCKET: a folder holding the store's objects under their names. ENVELOPE: the set's envelope, by its name in the bucket.
# KEY: the scope's age identity file. SIGNERS: the allowed_signers file. OUT: a folder; no file in it is overwritten.
set -euo pipefail
bucket=$1 envelope=$2 key=$3 signers=$4 out=$5
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d "$out.XXXXXX") # beside OUT, because it holds as much
trap 'rm -rf "$work"' EXIT

# 1. Is the envelope signed by somebody we believe, and does it say that it is this one? (Judged by when it was stored.)
writer=$(jq -r .writer "$bucket/$envelope")
stored=$(date -r "$bucket/$envelope" +%Y%m%d%H%M%S)
ssh-keygen -Y verify -f "$signers" -I "$writer" -n lifeboat-envelope -O verify-time="$stored" \
    -s "$bucket/$envelope.sig" <"$bucket/$envelope" >&2
test "$(jq -r .name "$bucket/$envelope")" = "$envelope"

# 2. Is every object it names what it was?
(cd "$bucket" && jq -r '.objects[] | "\(.sha256)  \(.name)"' "$envelope" | sha256sum --check --quiet)

# 3. The body says which files there are; the packs hold their chunks, each named by its id.
body=$(jq -r '.objects[].name | select(endswith(".body.jsonl.zst.age"))' "$bucket/$envelope")
age -d -i "$key" "$bucket/$body" | zstd -dc >"$work/body.jsonl"
tail -1 "$work/body.jsonl" | jq -e .end >"$work/end"
mkdir "$work/chunks"
jq -r '.objects[].name | select(endswith(".tar.zst.age"))' "$bucket/$envelope" | while read -r pack; do
    age -d -i "$key" "$bucket/$pack" | zstd -dc | tar x -C "$work/chunks"
done

# 4. Is every chunk what its id says? (HMAC-SHA256 under the key in the body's first line.)
chunk_key=$(head -1 "$work/body.jsonl" | jq -r .set.chunk_key)
(cd "$work/chunks" && find . -type f -printf '%f\0' |
    xargs -0r openssl dgst -sha256 -mac HMAC -macopt "hexkey:$chunk_key") >"$work/ids"
awk -F '[()= ]+' '$(NF - 1) != $NF { print "chunk " $(NF - 1) " is not what its name says"; bad = 1 } END { exit bad }' "$work/ids" >&2

# 5. What there is, a line each: kind, mode, size, path, and the chunks in order ("0:n" stands for n zero bytes).
jq -r 'select(.dir // .file // .link) | [if .dir then "dir" elif .file then "file" else "link" end, (.dir // .file // .link | .mode,
    .bytes // 0, .path, ([.chunks // [] | .[] | if .zero then "0:\(.zero)" else .id end] | join(" ")), .target // "")] | map(tostring) |
    if .[3] | test("[\\p{Cc}\\\\]|^/|(^|/)\\.{0,2}(/|$)") then error("not a path to write: \(.[3])") else join("\u001f") end' \
    "$work/body.jsonl" >"$work/list"
umask 077
cd "$work/chunks"
while IFS=$'\x1f' read -r kind mode bytes path chunks target; do
    printf -v mode %o "$mode"
    case $kind in
    link) # never made: what it points to is somebody else's disk
        mkdir -p "$out/$path"
        echo "$path was a link to $target and is a folder now" >&2
        continue
        ;;
    dir) mkdir -p "$out/$path" ;;
    file)
        [ -d "$out/${path%/*}" ] || [ "$path" = "${path##*/}" ] || mkdir -p "$out/${path%/*}"
        set -o noclobber # an existing file, or a link to one, is refused here
        : >"$out/$path"
        set +o noclobber
        case $chunks in
        '') ;;
        *0:*) for chunk in $chunks; do
            if [ "${chunk%%:*}" = 0 ]; then head -c "${chunk#0:}" /dev/zero; else cat "$chunk"; fi
        done ;;
        *) cat $chunks ;;
        esac >>"$out/$path"
        echo "$bytes $path" >>"$work/sizes"
        ;;
    esac
    if [ "$kind $mode" != "file 600" ]; then chmod "$mode" "$out/$path"; fi
done <"$work/list"

# 6. Has every file the size it had?
if [ -e "$work/sizes" ]; then
    (cd "$out" && cut -d ' ' -f 2- "$work/sizes" | tr '\n' '\0' | xargs -0r stat -c '%s %n') | cmp - "$work/sizes"
fi
echo "recovered $(jq .entries "$work/end") entries into $out" >&2
