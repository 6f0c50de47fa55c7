#!/bin/sh
# Fills gpu-bundle/ at the top of the repository with all that a machine with a
# card needs, which has no Rust and no network: see README.md beside this file.
#
#   sh kernels/cuda/bundle/make.sh [FOLDER]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
bundle=${1:-$root/gpu-bundle}
cargo=${CARGO:-cargo}
limit_mib=60
cd "$root"

# Made aside and renamed when whole: half a bundle is worse than none.
made=$bundle.part
rm -rf "$made"
mkdir -p "$made/bin" "$made/text" "$made/templates/hostile/candidate" "$made/guests"

"$cargo" build --release --workspace --bin terrarium --example bench_device --example bundle_guests
"$cargo" test --release --workspace --no-run --test device --test broker --message-format=json \
    2>/dev/null >"$made/built.json" || "$cargo" test --release --workspace --no-run --test device --test broker
target=${CARGO_TARGET_DIR:-$root/target}/release

put() {
    cp "$1" "$made/bin/$2"
    strip "$made/bin/$2"
}
put "$target/terrarium" terrarium
put "$target/examples/bench_device" bench_device
test_program() {
    # The newest that cargo names; one line of its JSON is one artifact.
    sed -n "s/.*\"target\":{[^}]*\"name\":\"$1\"[^}]*}.*\"executable\":\"\([^\"]*\)\".*/\1/p" "$made/built.json" | tail -1
}
put "$(test_program device)" device-tests
put "$(test_program broker)" broker-tests
rm "$made/built.json"

# Guests, compiled here: the templates, honest ones and the hostile corpus.
"$target/examples/bundle_guests" "$made/guests" "$target/terrarium"

# The templates' files, and the small task that hostile guests are tried on.
for name in gpt gpt-h100; do
    mkdir -p "$made/templates/$name/candidate"
    cp "guest-templates/$name/task.toml" "guest-templates/$name/TASK.md" "$made/templates/$name"
    cp "guest-templates/$name/candidate/candidate.rs" "$made/templates/$name/candidate"
done
cp "$here/hostile.toml" "$made/templates/hostile/task.toml"
cp guest-templates/gpt/candidate/candidate.rs "$made/templates/hostile/candidate"

# Text of our own, and its token shards as the engine writes them.
git ls-files '*.rs' '*.md' '*.py' '*.cu' '*.cuh' | while read -r file; do
    cp "$file" "$made/text/$(printf %s "$file" | tr / _)"
done
TERRARIUM_CACHE="$made/cache" TERRARIUM_TEMPLATES="$made/templates" "$made/bin/terrarium" \
    eval "$made/templates/hostile" --wasm "$made/guests/uniform.wasm" --data "$made/text" --json >"$made/shards.json"
rm "$made/shards.json"
# Machine code is made again where it runs.
rm -rf "$made/cache/components"

cp -r "$here/check.sh" "$here/check" "$here/README.md" "$here/METHOD.md" "$here/HOPPER.md" "$made"
rm -rf "$made/check/__pycache__"
# The newest C library that a program here needs.
libc=$(for file in "$made"/bin/*; do objdump -T "$file" 2>/dev/null; done |
    sed -n 's/.*(\{0,1\}GLIBC_\([0-9.]*\).*/\1/p' | sort -V | tail -1)
printf '{"commit": "%s", "changed": %s, "built": "%s", "rustc": "%s", "glibc": "%s"}\n' \
    "$(git rev-parse HEAD)" "$(git diff --quiet HEAD && echo false || echo true)" \
    "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$(rustc --version)" "$libc" >"$made/bundle.json"

# Unpacked into a temporary folder where they run.
gzip -9 "$made"/bin/*

size=$(du -sm "$made" | cut -f1)
if [ "$size" -gt "$limit_mib" ]; then
    du -sm "$made"/* >&2
    echo "the bundle has $size MiB, at most $limit_mib are wanted; see $made" >&2
    exit 1
fi
rm -rf "$bundle"
mv "$made" "$bundle"
echo "$bundle: $size MiB, needs glibc ${libc:-unknown}"
