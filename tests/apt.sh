#!/bin/sh
# Installs the Debian packages in apt.txt that are missing, without starting their services.
# Elsewhere, or without root, the tests that need them are skipped and say so. Called by ./test.
set -eu
command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || exit 0

missing=
for package in $(sed 's/#.*//' "$(dirname -- "$0")/apt.txt"); do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ "$missing" ] || exit 0

echo "Installing$missing" >&2
policy=/usr/sbin/policy-rc.d # asked before any service starts; 101 says no
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of names
if ! { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1 </dev/null
then
    tail -n 5 "$log" >&2
    echo "Not installed:$missing; the tests that need them are skipped. All of it: $log" >&2
    exit 0
fi
rm -f "$log"
