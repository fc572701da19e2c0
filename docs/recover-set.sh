#!/usr/bin/env bash
# Recovers the files of one set without lifeboat: bash, ssh-keygen, age, zstd, tar, jq, openssl, coreutils.
#   recover-set.sh BUCKET ENVELOPE KEY SIGNERS OUT
# BUCKET: a folder holding the store's objects under their names. ENVELOPE: the set's envelope, by its name in the bucket.
# KEY: the scope's age identity file. SIGNERS: the allowed_signers file. OUT: a new folder.
set -euo pipefail
bucket=$1 envelope=$2 key=$3 signers=$4 out=$5
mkdir "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# 1. Is the envelope signed by somebody we believe, and does it say that it is this one?
writer=$(jq -r .writer "$bucket/$envelope")
ssh-keygen -Y verify -f "$signers" -I "$writer" -n lifeboat-envelope -s "$bucket/$envelope.sig" <"$bucket/$envelope" >&2
test "$(jq -r .name "$bucket/$envelope")" = "$envelope"

# 2. Is every object it names what it was?
(cd "$bucket" && jq -r '.objects[] | "\(.sha256)  \(.name)"' "$envelope" | sha256sum --check --quiet)

# 3. The body says which files there are; the packs hold their chunks, each named by its id.
body=$(jq -r '.objects[].name | select(endswith(".body.jsonl.zst.age"))' "$bucket/$envelope")
age -d -i "$key" "$bucket/$body" | zstd -dc >"$work/body.jsonl"
mkdir "$work/chunks"
jq -r '.objects[].name | select(endswith(".tar.zst.age"))' "$bucket/$envelope" | while read -r pack; do
    age -d -i "$key" "$bucket/$pack" | zstd -dc | tar x -C "$work/chunks"
done

# 4. Is every chunk what its id says? (HMAC-SHA256 under the key in the body's first line.)
chunk_key=$(head -1 "$work/body.jsonl" | jq -r .set.chunk_key)
for chunk in "$work"/chunks/*; do
    id=$(openssl dgst -sha256 -mac HMAC -macopt "hexkey:$chunk_key" "$chunk")
    test "${id##* }" = "$(basename "$chunk")"
done

# 5. A file is its chunks one after the other; {"zero": n} stands for n zero bytes.
jq -c 'select(.dir) | .dir.path' "$work/body.jsonl" | while read -r path; do mkdir -p "$out/$(jq -r . <<<"$path")"; done
jq -c 'select(.file) | .file' "$work/body.jsonl" | while read -r file; do
    path=$out/$(jq -r .path <<<"$file")
    mkdir -p "$(dirname "$path")"
    jq -r '.chunks // [] | .[] | if .zero then "zero \(.zero)" else "chunk \(.id)" end' <<<"$file" |
        while read -r kind what; do
            if [ "$kind" = zero ]; then head -c "$what" /dev/zero; else cat "$work/chunks/$what"; fi
        done >"$path"
    test "$(stat -c %s "$path")" = "$(jq -r .bytes <<<"$file")"
    chmod "$(printf '%o' "$(jq -r .mode <<<"$file")")" "$path"
done
jq -c 'select(.link) | .link' "$work/body.jsonl" | while read -r link; do
    ln -s "$(jq -r .target <<<"$link")" "$out/$(jq -r .path <<<"$link")"
done
echo "recovered $(tail -1 "$work/body.jsonl" | jq .end.entries) entries into $out" >&2
