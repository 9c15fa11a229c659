# Sourced by the scripts beside it: makes .venv from a lock file, once, and says what it does.
# Expects the name of the lock file in $lock: POSIX sh hands no arguments to a sourced file.

if ! command -v python3 >/dev/null 2>&1; then
    echo "python3 is missing. On Debian: apt install python3 python3-venv" >&2
    exit 1
fi
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Python 3.11 or newer is needed; this is $(python3 --version)." >&2
    exit 1
fi
if ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
    echo "python3 cannot make a virtual environment. On Debian: apt install python3-venv" >&2
    exit 1
fi

# The stamp names what was installed: a changed lock file installs again, an unchanged one starts
# within a second. What the tests need contains what the product needs.
stamp=$(sha256sum "$lock" | cut -c1-16)
if [ ! -x .venv/bin/python ]; then
    echo "Making .venv ..."
    python3 -m venv .venv
fi
if [ ! -e ".venv/stamp-$lock-$stamp" ]; then
    echo "Installing from $lock (once, about 20 seconds) ..."
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python .venv/bin/python --require-hashes -r "$lock"
    else
        .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            --require-hashes -r "$lock"
    fi
    rm -f .venv/stamp-"$lock"-*
    : >".venv/stamp-$lock-$stamp"
fi
