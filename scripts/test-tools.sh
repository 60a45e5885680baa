#!/bin/sh
# Installs the Debian packages that the tests use when they are missing: strace counts the disk syncs
# between a commit and its acknowledgement, a private PostgreSQL and a private Redis are started for the
# store's tests, systemd-analyze reads the unit, libfaketime sets a server's clock, groff reads the
# manual pages, and zsh and fish their completion; voices are encoded by libopus, which PyOgg finds
# with libogg and libopusfile.
set -eu
missing=""
command -v strace >/dev/null 2>&1 || missing="$missing strace"
command -v openssl >/dev/null 2>&1 || missing="$missing openssl"
if ! command -v initdb >/dev/null 2>&1 && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    missing="$missing postgresql"
fi
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
command -v systemd-analyze >/dev/null 2>&1 || missing="$missing systemd"
command -v groff >/dev/null 2>&1 || missing="$missing groff-base"
command -v zsh >/dev/null 2>&1 || missing="$missing zsh"
command -v fish >/dev/null 2>&1 || missing="$missing fish"
ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || missing="$missing libfaketime"
# What PyOgg loads, where the loader finds it. Its cache knows the soname: ldconfig is not in everybody's path.
libraries=$(PATH="$PATH:/usr/sbin:/sbin" ldconfig -p)
for library in libopus:libopus0 libogg:libogg0 libopusfile:libopusfile0; do
    case "$libraries" in
    *"${library%:*}.so.0 "*) ;;
    *) missing="$missing ${library#*:}" ;;
    esac
done
[ -n "$missing" ] || exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    sudo=""
elif command -v apt-get >/dev/null 2>&1 && command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo="sudo"
else
    echo "test-tools: missing; run as root: apt-get install --no-install-recommends$missing" >&2
    exit 2
fi
case "$missing" in
*postgresql*)
    # The tests start servers of their own: no cluster shall be made, and none started at boot.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        $sudo mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    ;;
esac
case "$missing" in
*redis-server*)
    # Nor shall Redis start, now or at boot: masked, unless somebody has set it up already.
    # To use it as a service: systemctl unmask redis-server
    if [ -d /etc/systemd/system ] && [ ! -e /etc/systemd/system/redis-server.service ] &&
        [ ! -L /etc/systemd/system/redis-server.service ] && [ ! -e /etc/redis/redis.conf ]; then
        $sudo ln -s /dev/null /etc/systemd/system/redis-server.service
    fi
    ;;
esac
$sudo apt-get update -qq
# shellcheck disable=SC2086  # a list of package names
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o Dpkg::Options::=--force-confold $missing
