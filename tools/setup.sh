#!/bin/sh
# Installs mmft, editable and with its dev extra, into a virtual environment: sh tools/setup.sh PYTHON VENV
# Called by make. Uses uv where it is on the PATH or can be installed into the environment, else pip.
set -eu
python=$1
venv=$2

fail() {
    echo "make setup: $1" >&2
    exit 2
}

command -v "$python" >/dev/null || fail "there is no '$python' here; name one: make PYTHON=/path/to/python3.11"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "mmft needs Python 3.11 or newer, '$python' is $("$python" -V 2>&1); name another: make PYTHON=python3.12"

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    rm -rf "$venv"
    if command -v uv >/dev/null; then
        uv venv --quiet --python "$python" "$venv"
    elif ! "$python" -m venv "$venv"; then
        rm -rf "$venv" # Debian's Python without ensurepip leaves half an environment behind
        fail "'$python' cannot make a virtual environment (Debian, Ubuntu: apt install python3-venv; or install uv)"
    fi
fi

# Compiled at once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each start would compile 5,000 files.
if command -v uv >/dev/null; then
    uv pip install --compile-bytecode --python "$venv/bin/python" -e '.[dev]'
elif "$venv/bin/python" -m pip install --quiet uv; then
    "$venv/bin/python" -m uv pip install --compile-bytecode --python "$venv/bin/python" -e '.[dev]'
else
    "$venv/bin/python" -m pip install -e '.[dev]'
fi
"$venv/bin/python" -m compileall -q mmft
