#!/usr/bin/env bash
# Install the Debian packages that tests use (a browser that looks at the pages). Tests that lack one skip, saying so.
set -euo pipefail
packages=()
command -v chromium >/dev/null || packages+=(chromium)
[ ${#packages[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "apt: not installing ${packages[*]} (needs apt-get and root); tests that use them will skip"
  exit 0
fi
echo "apt: installing ${packages[*]}"
apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${packages[@]}" >/dev/null ||
  echo "apt: could not install ${packages[*]}; tests that use them will skip"
