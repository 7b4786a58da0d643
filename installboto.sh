#!/bin/sh
# Makes .venv beside this file and installs requirements.txt into it. Run again, it keeps a good
# .venv and adds what is missing. PYTHON=/path/to/python3 names the Python to make it with.
set -u

fail() {
    printf 'installboto: %s\n' "$*" >&2
    exit 1
}

script=$0
while [ -h "$script" ]; do
    target=$(readlink -- "$script" 2>/dev/null) ||
        fail "cannot follow the link $script; run the file that it leads to"
    case $target in
        /*) script=$target ;;
        *) script=$(dirname -- "$script")/$target ;;
    esac
done
here=$(CDPATH='' cd -- "$(dirname -- "$script")" && pwd) || fail 'cannot find the folder I am in'
[ -f "$here/requirements.txt" ] ||
    fail "no requirements.txt in $here; run the installboto.sh that lies beside export_csv.py"
venv=$here/.venv
venv_python=$venv/bin/python

# Each of these makes pip install elsewhere, in part, or not at all; a mirror's address may stay.
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER PIP_PYTHON PIP_DRY_RUN PIP_NO_DEPS

# A half-made .venv has no pip that runs; one whose Python was replaced has none either.
venv_is_good() {
    "$venv_python" -I -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 &&
        "$venv_python" -I -m pip --version >/dev/null 2>&1
}

# Prints a version and "ok", "old" or "no-venv". Debian's python3 without python3-venv has venv but
# not ensurepip, and would leave half a .venv behind. Must run on Python 2, which can be `python`.
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

# Sets python to the first one that will do, or ends with what to do about it.
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
            "on Debian or Ubuntu: apt install $package, then run this again"
    elif [ -n "$old" ]; then
        fail "Python 3.10 or later is needed and $old;" \
            "install a newer one, or name it: PYTHON=/path/to/python3 sh installboto.sh"
    elif [ -n "${PYTHON:-}" ]; then
        fail "PYTHON=$PYTHON does not run;" \
            "set it to the path of a Python 3.10 or later, or unset it"
    else
        fail 'Python is not installed; install 3.10 or later' \
            '(on Debian: apt install python3 python3-venv), then run this again'
    fi
}

if ! venv_is_good; then
    find_python
    rm -rf -- "$venv" || fail "cannot remove the broken $venv; remove it, then run this again"
    "$python" -I -m venv "$venv" || {
        rm -rf -- "$venv"
        fail "$python -m venv could not make $venv; what it said stands above"
    }
fi

# -I: a PYTHONPATH that holds boto3 would make pip believe that it is installed already.
"$venv_python" -I -m pip install --quiet --disable-pip-version-check \
    -r "$here/requirements.txt" >"$venv/install.log" 2>&1 || {
    cat -- "$venv/install.log" >&2
    fail 'pip could not install requirements.txt; what it said stands above;' \
        'run this again when that is mended'
}
"$venv_python" -I -c 'import boto3, requests, dotenv' >>"$venv/install.log" 2>&1 ||
    fail "pip saw no error, but the packages can't be imported ($venv/install.log says why);" \
        'look for target, prefix, root or dry-run in what' \
        "'$venv_python -m pip config list' prints," \
        "or else remove $venv, then run this again"

echo 'Installed into .venv. Next: ".venv/bin/python tests/sandbox.py" shows a whole run;' \
    'for your own, fill in config.ini.'
