#!/bin/sh
# Creates .venv next to this file and installs requirements.txt into it, in the versions that were
# tested (tests/constraints.txt). Run it again to update or repair .venv. To choose the Python that
# creates it, set PYTHON=/path/to/python3.
set -u

fail() {
    printf 'installboto: %s\n' "$*" >&2
    exit 1
}

script=$0
while [ -h "$script" ]; do
    target=$(readlink -- "$script" 2>/dev/null) ||
        fail "cannot follow the link $script; run the file it points to"
    case $target in
        /*) script=$target ;;
        *) script=$(dirname -- "$script")/$target ;;
    esac
done
here=$(CDPATH='' cd -- "$(dirname -- "$script")" && pwd) ||
    fail "cannot find this script's folder"
[ -f "$here/requirements.txt" ] ||
    fail "no requirements.txt in $here; run the installboto.sh next to export_csv.py"
venv=$here/.venv
venv_python=$venv/bin/python

# Each of these makes pip install elsewhere, partially, or not at all. PIP_INDEX_URL and the
# like are kept.
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_PYTHON PIP_DRY_RUN PIP_NO_DEPS

# pip doesn't run if .venv is incomplete, or if its Python has been removed or replaced.
venv_is_good() {
    "$venv_python" -I -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 &&
        "$venv_python" -I -m pip --version >/dev/null 2>&1
}

# Prints a version and "ok", "old" or "no-venv". Without python3-venv, Debian's python3 has venv but
# not ensurepip, and would leave an incomplete .venv behind. `python` may be Python 2, so this must
# also run on Python 2.
probe='
import sys
version = "%d.%d.%d" % sys.version_info[:3]
if sys.version_info < (3, 10):
    print(version + " old")
else:
    try:
        import venv
        from ensurepip import bootstrap
        print(version + " ok")
    except ImportError:
        print(version + " no-venv")
'

# Sets python to the first suitable one, or fails with advice on installing it.
find_python() {
    old='' without_venv=''
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11 python3.10 python
    fi
    for python in "$@"; do
        found=$("$python" -E -c "$probe" 2>/dev/null) || continue
        case $found in
            *' ok') return ;;
            *' old') old=${old:-"$python is ${found% *}"} ;;
            *' no-venv') without_venv=${without_venv:-$python} ;;
        esac
    done
    if [ -n "$without_venv" ]; then
        case ${without_venv##*/} in
            python3.*) package=${without_venv##*/}-venv ;;
            *) package=python3-venv ;;
        esac
        fail "$without_venv has no venv module;" \
            "install it (on Debian or Ubuntu: apt install $package) and run this again"
    elif [ -n "$old" ]; then
        fail "Python 3.10 or later is required, but $old; install a newer one," \
            'or select one that is installed: PYTHON=/path/to/python3 sh installboto.sh'
    elif [ -n "${PYTHON:-}" ]; then
        fail "PYTHON=$PYTHON can't be run;" \
            'set it to the path of Python 3.10 or later, or unset it'
    else
        fail 'Python not found; install Python 3.10 or later' \
            '(on Debian or Ubuntu: apt install python3 python3-venv) and run this again'
    fi
}

if ! venv_is_good; then
    find_python
    rm -rf -- "$venv" || fail "cannot remove the broken $venv; remove it and run this again"
    "$python" -I -m venv "$venv" || {
        rm -rf -- "$venv"
        fail "$python -m venv failed (see above); fix it and run this again"
    }
fi

set -- -r "$here/requirements.txt"
if [ -f "$here/tests/constraints.txt" ]; then
    set -- "$@" -c "$here/tests/constraints.txt"
fi
# Without -I, pip would count packages on PYTHONPATH as installed.
"$venv_python" -I -m pip install --quiet --disable-pip-version-check "$@" \
    >"$venv/install.log" 2>&1 || {
    cat -- "$venv/install.log" >&2
    fail 'pip failed (see above); fix it and run this again'
}
"$venv_python" -I -c 'import boto3, requests, dotenv' >>"$venv/install.log" 2>&1 ||
    fail "pip succeeded, but the packages can't be imported (see $venv/install.log);" \
        "if '$venv_python -m pip config list' shows target, prefix, root or dry-run," \
        "remove that setting, otherwise remove $venv; then run this again"

demo=''
if [ -f "$here/tests/sandbox.py" ]; then
    demo='try the demo (.venv/bin/python tests/sandbox.py), or '
fi
echo "Installed into .venv. Next: ${demo}fill in config.ini."
