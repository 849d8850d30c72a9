# Shared by the scripts in this folder: what a machine needs, installed by its own package manager. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export PATH="$HOME/.cargo/bin:$PATH"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'hearth: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif have sudo; then sudo "$@"
  else fail "needs root to run: $*"; fi
}

# Debian and Ubuntu: installs packages without starting their services, since everything here runs private servers.
apt_install() {
  local policy=/usr/sbin/policy-rc.d made=
  as_root apt-get update -qq
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod +x "$policy"
    made=1
  fi
  local status=0
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" || status=$?
  if [ -n "$made" ]; then as_root rm -f "$policy"; fi
  return "$status"
}

# installs NAME-ON-DEBIAN NAME-ON-HOMEBREW
packages() {
  if have apt-get; then apt_install $1
  elif have brew; then brew install $2
  else fail "install these by hand, then run this again: $1"; fi
}

have_server() {
  have "$1" || ls /usr/lib/postgresql/*/bin/"$1" /opt/homebrew/opt/postgresql*/bin/"$1" /usr/local/opt/postgresql*/bin/"$1" \
    /usr/sbin/"$1" >/dev/null 2>&1
}

need_servers() {
  local missing_deb= missing_brew=
  if ! have_server postgres || ! have_server initdb; then missing_deb="postgresql"; missing_brew="postgresql"; fi
  if ! have_server redis-server; then missing_deb="$missing_deb redis-server"; missing_brew="$missing_brew redis"; fi
  if [ -n "$missing_deb" ]; then
    say "Installing $missing_deb"
    packages "$missing_deb" "$missing_brew"
  fi
}

# A C compiler builds the TLS library.
need_rust() {
  if ! have cc; then say "Installing a C compiler"; packages "build-essential" "gcc"; fi
  if have cargo; then return; fi
  say "Installing the Rust toolchain (rustup)"
  if ! have curl; then packages "curl ca-certificates" "curl"; fi
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --component rustfmt,clippy
}
