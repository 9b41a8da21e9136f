#!/usr/bin/env bash
# Make .venv and install gream with the versions of requirements/lock-cpu.txt into it.
#
# A stamp in .venv remembers what was installed: a second run installs nothing, and an interrupted or outdated
# installation is completed. PYTHON=/path/to/python3.11 chooses the interpreter. Nothing outside .venv changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lock=requirements/lock-cpu.txt
venv_python=.venv/bin/python
stamp=.venv/gream-installed
torch_index=https://download.pytorch.org/whl/cpu
needed_gb=5

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 2
}

# The folder is part of the stamp because an installed copy that was moved still points to the old place.
wanted() { { cat "$lock" pyproject.toml tools/setup.sh && pwd; } | sha256sum | cut -d ' ' -f 1; }
is_current() { [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted)" ] && "$venv_python" -c '' 2>/dev/null; }

is_supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; }

find_python() {
    local candidate without_venv=
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        is_supported "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        without_venv=$candidate
    done
    if [ -n "$without_venv" ]; then
        fail "$without_venv cannot make virtual environments (on Debian its venv is a package of its own):" \
            "run 'apt install python3-venv' as root, then make again."
    fi
    fail "No Python 3.11 or 3.12 was found${PYTHON:+ at $PYTHON}: install one (on Debian 12 run" \
        "'apt install python3 python3-venv' as root), or name it with 'make PYTHON=/path/to/python3.11'."
}

check_disk() {
    local free_kb used_kb=0
    free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
    if [ -d .venv ]; then used_kb=$(du -sk .venv | cut -f 1); fi
    if [ $((free_kb + used_kb)) -lt $((needed_gb * 1024 * 1024)) ]; then
        fail "Only $((free_kb / 1024)) MB are free here and the installation needs about $needed_gb GB:" \
            "free some space, then run make again."
    fi
}

make_venv() {
    local python
    if is_supported "$venv_python" && "$venv_python" -m pip --version >/dev/null 2>&1; then return; fi
    if "$venv_python" -c '' 2>/dev/null && ! is_supported "$venv_python"; then
        fail ".venv is there already with $("$venv_python" -V), and gream needs 3.11 or 3.12: move it away," \
            "then run make again."
    fi
    python=$(find_python)
    say "Making .venv with $python ($("$python" -V))."
    "$python" -m venv .venv || fail ".venv could not be made: mend what is said above, then run make again."
}

# pip writes RECORD last: a package without it was interrupted, and pip would take it for installed.
forget_interrupted_packages() {
    find .venv -maxdepth 5 -name '*.dist-info' ! -exec test -e '{}/RECORD' ';' -prune -exec rm -rf '{}' +
}

pip_install() { "$venv_python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps "$@" 2>"$log"; }

explain_and_leave() {
    if grep -qi 'no space left' "$log"; then
        fail "The disk ran full: free about $needed_gb GB (also in ${TMPDIR:-/tmp}), then run make again."
    elif grep -qiE 'NewConnectionError|timed ?out|name resolution|unreachable|ProxyError|refused|SSLError' "$log"; then
        fail "The packages could not be fetched: connect this machine to the network (or give pip a mirror" \
            "with PIP_INDEX_URL), then run make again; what is installed already stays."
    fi
    cat "$log" >&2
    fail "pip could not install what the message above names: mend that, then run make again."
}

# Elsewhere than on PyTorch's own index, torch is the CUDA build, several GB larger.
install_torch() {
    local version
    version=$(sed -n 's/^torch==//p' "$lock")+cpu
    say "Installing torch $version (about 200 MB, if it is not here yet)."
    pip_install "torch==$version" || pip_install --index-url "$torch_index" "torch==$version" || explain_and_leave
}

if is_current; then exit 0; fi
started=$SECONDS
log=$(mktemp)
trap 'rm -f "$log"' EXIT
check_disk
make_venv
rm -f "$stamp"
forget_interrupted_packages
install_torch
say "Installing the other $(grep -c == "$lock") packages of $lock (about 1 GB and a few minutes, if they are not here yet)."
DS_BUILD_OPS=0 pip_install -r "$lock" || explain_and_leave
say "Installing gream itself."
pip_install --no-build-isolation --editable . || explain_and_leave
wanted >"$stamp"
say "Ready after $((SECONDS - started)) s; .venv holds gream $("$venv_python" -c \
    'from importlib.metadata import version; print(version("gream"))')."
