#!/bin/sh
# Installs what is missing, lints, checks the types and runs every test. Arguments go to pytest:
# `sh tests/run.sh -n 0 -k setup` runs some of the tests, one after the other.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."

sh installboto.sh
python=.venv/bin/python
"$python" -I -m pip install -qq --disable-pip-version-check -r tests/requirements.txt

# Keeps the repository's top level free of caches.
export PYTHONDONTWRITEBYTECODE=1
export RUFF_CACHE_DIR="$PWD/tests/.cache/ruff"
export HYPOTHESIS_STORAGE_DIRECTORY="$PWD/tests/.cache/hypothesis"

# Each goes on after the one before it failed, so that one run shows all that is wrong.
status=0
"$python" -m ruff check --quiet --output-format concise --config tests/ruff.toml \
    export_csv.py tests || status=1
"$python" -m ruff format --diff --quiet --config tests/ruff.toml export_csv.py tests || status=1
"$python" -m mypy --no-error-summary --config-file tests/mypy.ini export_csv.py tests || status=1
"$python" -m pytest -c tests/pytest.ini -n 4 "$@" tests || status=$?
exit "$status"
