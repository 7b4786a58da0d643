#!/bin/sh
# Installs what is missing, lints, checks types and runs all tests. Arguments are passed to pytest:
# `sh tests/run.sh -n 0 -k setup` runs only the matching tests, one at a time.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."

# A failed step doesn't stop the next one, so that one run shows everything that is wrong.
status=0
step() {
    printf '== %s\n' "$1"
    shift
    "$@" || status=1
}

printf '== installing\n'
sh installboto.sh
python=.venv/bin/python
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_DRY_RUN
# Most modules of the test tools are never imported, so compiling all of them would be
# a waste.
"$python" -I -m pip install -qq --no-compile --disable-pip-version-check \
    -r tests/requirements.txt -c tests/constraints.txt

# Keep caches out of the repository's top level.
unset PYTHONDONTWRITEBYTECODE
export RUFF_CACHE_DIR="$PWD/tests/.cache/ruff"
export HYPOTHESIS_STORAGE_DIRECTORY="$PWD/tests/.cache/hypothesis"

lint() {
    step 'lint: ruff' "$python" -m ruff check --quiet --output-format concise \
        --config tests/ruff.toml export_csv.py tests
    step 'lint: format' "$python" -m ruff format --diff --quiet --config tests/ruff.toml \
        export_csv.py tests
    step 'types: mypy' "$python" -m mypy --no-error-summary --config-file tests/mypy.ini \
        export_csv.py tests
    return "$status"
}

# Lint while the tests run: mypy takes about a fifth as long as they do, but uses only
# one processor.
mkdir -p tests/.cache
lint >tests/.cache/lint.log 2>&1 &
lint=$!
# Collecting the tests compiles them once. Otherwise, each of pytest's processes would
# compile them.
"$python" -m pytest -c tests/pytest.ini --collect-only -qq tests >/dev/null 2>&1 || true
step 'tests' "$python" -m pytest -c tests/pytest.ini -n 5 "$@" tests
wait "$lint" || status=1
cat tests/.cache/lint.log
exit "$status"
