#!/usr/bin/env bash
# Tests of caikit's runtime over workers, in an environment of their own: caikit.sh [DIRECTORY of the environment].
# With CAIKIT_SOURCE, a checkout of caikit's source, also caikit's own tests/runtime, with each model in a worker: those of
# the installed caikit, so only the tests are taken of the checkout. Each folder of them is a process of its own: what
# tests of tracing leave behind makes all later ones take minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
environment=$(realpath -m "${1:-.venv-caikit}")
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
# A bundle that is set wins over `verify=False` in requests, which caikit's tests rely on.
unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE

if [ ! -x "$environment/bin/pytest" ]; then
    python3 -m venv "$environment"
    echo '*' >"$environment/.gitignore"
    "$environment/bin/pip" install -q -e '.[caikit]' \
        'caikit[runtime-client,runtime-trace,interfaces-vision,interfaces-ts]==0.29.0' 'pytest>=7,<8' \
        'pytest-asyncio>=0.21,<0.22' pytest-timeout 'pytest-xdist<3.7' 'tls_test_tools>=0.1.1' wheel
fi
"$environment/bin/python" -m pytest -m caikit tests/fronts/caikit

[ -n "${CAIKIT_SOURCE:-}" ] || exit 0
cp -r "$CAIKIT_SOURCE/tests" "$CAIKIT_SOURCE/pyproject.toml" "$temporary"
cd "$temporary"
for part in tests/runtime/*/ tests/runtime/test_*.py; do
    [ -n "$(find "$part" -name 'test_*.py')" ] || continue
    printf '\n=== %s\n' "$part"
    PYTHONPATH="$checkout/tests/fronts/caikit" timeout 600 "$environment/bin/python" -m pytest -p over_workers "$part" \
        -q -rfE --timeout 120 -p no:cacheprovider 2>&1 | tee -a log || true  # some fail with caikit alone, too
done
printf '\n=== summary\n'
grep -E '^(FAILED|ERROR) ' log || true
for what in passed failed skipped error; do
    grep -E '^[0-9]+ .* in [0-9.]+s' log | grep -oE "[0-9]+ $what" | awk -v what="$what" '{ n += $1 } END { print n + 0, what }'
done
