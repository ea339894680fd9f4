#!/bin/sh
# Builds the release workspace, then runs `p2p-testnet ARGS` (default: up --detach). Works from any folder; the result
# of the command stays alone on standard output.
set -eu

missing() {
    printf 'error: %s\nhint:  %s\n' "$1" "$2" >&2
    exit 1
}

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd -P)

# rustup's folder is not on the path of a shell that was open while it was installed.
command -v cargo >/dev/null 2>&1 || PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"
command -v cargo >/dev/null 2>&1 || missing 'cargo is not installed' 'install Rust from https://rustup.rs'
command -v "${CC:-cc}" >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || command -v clang >/dev/null 2>&1 ||
    missing 'there is no C compiler, which SQLite needs' 'install gcc or clang (Debian, Ubuntu: apt install gcc)'

# cargo takes a relative target folder from the folder it is called in.
target=${CARGO_TARGET_DIR:-$root/target}
case $target in
/*) ;;
*) target=$PWD/$target ;;
esac

CARGO_TARGET_DIR=$target cargo build --release --workspace --locked --manifest-path "$root/Cargo.toml" >&2

[ $# -gt 0 ] || set -- up --detach
exec "$target/release/p2p-testnet" "$@"
