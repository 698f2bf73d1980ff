# Sourced by the other scripts: installs what is missing, and nothing that is there. Expects `set -euo pipefail`.
# shellcheck shell=bash disable=SC2034

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
VENV=$ROOT/.venv
INTEROP_VENV=$ROOT/.venv-interop

RUST_MINIMUM=1.95
CARGO_DENY_VERSION=0.20.2

# What building needs (aws-lc and SQLite are compiled by the C compiler; no cmake), and what the story and tests need.
BUILD_PACKAGES=(build-essential pkg-config)
TOKEN_PACKAGES=(softhsm2 opensc openssl)
CLIENT_PACKAGES=(python3 python3-venv ca-certificates curl)
# Debian's AWS CLI beside the current one of .venv: both are tested. rsyslog receives copies of the audit log. libnss3 is
# another token; libclang and perl are for tests/kryoptic, one more, which reads OpenSSL's headers and compiles it.
TEST_PACKAGES=(util-linux awscli faketime rsyslog rsyslog-gnutls libnss3 libclang-dev perl)

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${0##*/}: $*"
    exit 1
}

# need_apt PACKAGE...: Debian packages. The package lists are fetched only when something is missing.
need_apt() {
    local package missing=() as_root=()
    command -v dpkg-query >/dev/null || die "this is no Debian system: install the equivalents of: $*"
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "run as root: apt-get install ${missing[*]} (neither root nor sudo here)"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# need_cargo: a Rust toolchain that is new enough. It is not installed from here: where it comes from is your decision.
need_cargo() {
    local advice="install Rust $RUST_MINIMUM or newer, by https://rustup.rs for example" version
    command -v cargo >/dev/null || die "cargo is missing: $advice"
    version=$(cargo --version | cut -d ' ' -f 2)
    [[ $(printf '%s\n' "$RUST_MINIMUM" "$version" | sort -V | head -n 1) == "$RUST_MINIMUM" ]] ||
        die "cargo is $version: $advice"
}

# need_venv: .venv with the pinned clients of tests/clients/requirements.txt.
need_venv() { venv_with "$VENV" "$ROOT/tests/clients/requirements.txt"; }

# need_interop_venv: other people's programs, about 600 MB. Their own environment: they pin each other's libraries.
need_interop_venv() { venv_with "$INTEROP_VENV" "$ROOT/tests/interop/requirements.txt"; }

# venv_with DIR REQUIREMENTS: a virtual environment with exactly these packages.
venv_with() {
    local venv=$1 requirements=$2
    # The stamp is written last, so an interrupted installation is done again.
    cmp -s "$requirements" "$venv/installed-requirements.txt" && return 0
    say "installing the Python clients into ${venv##*/}"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
    cp "$requirements" "$venv/installed-requirements.txt"
}

# need_cargo_deny: `cargo deny`, compiled without optimisation (1.5 instead of 3 minutes on two cores) and kept
# below the target directory.
need_cargo_deny() {
    PATH=$TARGET/tools/bin:$PATH
    cargo deny --version >/dev/null 2>&1 && return 0
    say "compiling cargo-deny $CARGO_DENY_VERSION"
    CARGO_TARGET_DIR=$TARGET/tools/build cargo install --quiet --locked --debug --root "$TARGET/tools" \
        --version "$CARGO_DENY_VERSION" --no-default-features cargo-deny
    rm -rf "$TARGET/tools/build"
}

# scratch_dir NAME: a new directory for this user alone, in memory where the system has a place for that.
scratch_dir() {
    local base=${HSM_BRIDGE_TEST_TMP:-/dev/shm}
    [[ -d $base && -w $base ]] || base=${TMPDIR:-/tmp}
    mktemp -d "$base/hsm-bridge-$1-XXXXXX"
}
