#!/bin/sh
# Runs all tests with every Python 3.10 or later found on PATH or in pyenv, and once more with the
# lowest versions that requirements.txt allows and urllib3 1.26. Lints once. Continues after
# failures, and ends with a table of results. Arguments are passed to pytest.
set -u
CDPATH='' cd -- "$(dirname -- "$0")/.." || exit 1

cache=$PWD/tests/.cache/matrix
mkdir -p "$cache" || exit 1
unset PYTHON PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_DRY_RUN
# Leave out the linters, which run.sh runs, and types-requests, which doesn't allow urllib3 1.26.
grep -Ev '^(ruff|mypy|types-)' tests/requirements.txt >"$cache/requirements.txt"

# The lowest versions of the program's packages, but the tested versions of the test tools.
lowest=$cache/lowest.txt
{
    sed -n 's/^\([A-Za-z0-9-]*\)>=\([0-9.]*\),.*/\1==\2/p' requirements.txt
    echo 'urllib3==1.26.*'
    sed -n '/^# tests\/requirements.txt/,$p' tests/constraints.txt
} >"$lowest"

# Prints the path of a working Python 3.MINOR, or nothing. pyenv's shims on PATH may not run.
find_python() {
    pyenv_root=${PYENV_ROOT:-$(pyenv root 2>/dev/null)}
    for candidate in "python3.$1" "$pyenv_root/versions/3.$1".*/bin/python; do
        "$candidate" -I -c 'import sys, venv, ensurepip; print(sys.executable)' 2>/dev/null &&
            return
    done
}

# Creates the virtual environment NAME with PYTHON and installs the packages, in the
# versions of CONSTRAINTS.
install() { # NAME PYTHON CONSTRAINTS
    environment=$cache/$1/bin/python
    "$environment" -I -m pip --version >/dev/null 2>&1 ||
        "$2" -I -m venv --clear "$cache/$1" || return
    "$environment" -I -m pip install -qq --disable-pip-version-check \
        -r requirements.txt -r "$cache/requirements.txt" -c "$3"
}

run_pytest() { # NAME ARGUMENT...
    environment=$cache/$1/bin/python
    shift
    HYPOTHESIS_STORAGE_DIRECTORY="$PWD/tests/.cache/hypothesis" \
        "$environment" -m pytest -c tests/pytest.ini -n 4 "$@" tests
}

status=0
results=''
record() { # STATUS NAME
    verdict=passed
    if [ "$1" -ne 0 ]; then
        verdict=FAILED
        status=1
    fi
    results="$results$verdict  $2
"
}

printf '\n==== tests/run.sh\n'
sh tests/run.sh "$@"
result=$?
version=$(.venv/bin/python -I -c 'import platform; print(platform.python_version())' || true)
record "$result" "lint, types and tests: Python ${version:-missing}"

pythons=''
for minor in 10 11 12 13 14; do
    python=$(find_python "$minor")
    [ -n "$python" ] || continue
    pythons="$pythons $minor"
    case $version in
        "3.$minor".*) continue ;; # run.sh has just used it
    esac
    printf '\n==== Python 3.%s\n' "$minor"
    install "3.$minor" "$python" tests/constraints.txt && run_pytest "3.$minor" "$@"
    record $? "tests: Python 3.$minor"
done

printf '\n==== lowest versions\n'
installed=''
for minor in $pythons; do
    if install lowest "$(find_python "$minor")" "$lowest"; then
        installed=$minor
        break
    fi
    rm -rf "$cache/lowest"
done
export OTHER_VERSIONS=1 # for tests/test_setup.py
[ -n "$installed" ] && run_pytest lowest "$@"
record $? "tests: lowest versions${installed:+, Python 3.$installed}"

printf '\n==== results\n%s' "$results"
exit "$status"
