#!/usr/bin/env bash
# Each client of the Open Inference Protocol against each kind of model: clients.sh [DIRECTORY of the environments].
# torch, kserve and MLServer have environments of their own, because kserve's and MLServer's packages conflict with ours,
# and torch is big. HOSTD_TORCH_PYTHON, HOSTD_KSERVE_PYTHON and HOSTD_MLSERVER_PYTHON name interpreters that have them
# already. No row may be skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
directory=$(realpath -m "${1:-.venv-clients}")
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Have an environment with a package, and name its interpreter: NAME, and what to install.
environment() {
    local variable=HOSTD_${1^^}_PYTHON python=$directory/$1/bin/python
    [ -z "${!variable:-}" ] || return 0
    if [ ! -x "$python" ] || ! "$python" -m pip show -q "$1" 2>/dev/null; then
        python3 -m venv "$directory/$1"
        echo '*' >"$directory/.gitignore"
        "$python" -m pip install -q --no-compile "${@:2}"
    fi
    export "$variable=$python"
}

if [ ! -x .venv/bin/pytest ]; then
    python3 -m venv .venv
    .venv/bin/pip install -q -e '.[test]'
fi
environment torch torch==2.13.0 numpy pyzmq msgpack
environment kserve kserve==0.21.0
environment mlserver mlserver==1.7.1

.venv/bin/python -m pytest tests/fronts/test_oip_clients.py 2>&1 | tee "$log"
if grep -q '^SKIPPED' "$log"; then echo "none of these may be skipped here"; exit 1; fi
