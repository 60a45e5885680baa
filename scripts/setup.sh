#!/bin/sh
# Prepares the virtual environment in $VENV with all seven packages (editable) and the tools
# of the developers, at the versions that constraints.txt pins. Needs Python >= 3.11.
set -eu
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

if ! command -v "$PYTHON" >/dev/null 2>&1; then
    echo "setup: $PYTHON not found; install Python 3.11 or newer, or run: make PYTHON=/path/to/python3" >&2
    exit 1
fi
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "setup: $("$PYTHON" --version) is too old; CommuCat needs Python 3.11 or newer" >&2
    exit 1
fi
if ! "$PYTHON" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    # Debian splits venv from Python itself.
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv
    else
        echo "setup: $PYTHON has no venv module; run: sudo apt-get install python3-venv" >&2
        exit 1
    fi
fi
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
PIP_CONSTRAINT="$(pwd)/constraints.txt"
export PIP_CONSTRAINT
# PyOgg comes as a source package of the old kind; without the flag Debian's pip warns at length.
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 -e '.[dev,postgres,redis,telemetry,video]'
