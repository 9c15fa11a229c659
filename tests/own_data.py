"""Give a test run a data directory of its own. Loaded before the settings, which read it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "SWITCHER_DATA_DIR" not in os.environ:
    os.environ["SWITCHER_DATA_DIR"] = tempfile.mkdtemp(prefix="switchboard-test-")
    atexit.register(shutil.rmtree, os.environ["SWITCHER_DATA_DIR"], ignore_errors=True)
os.environ.setdefault("SWITCHER_LOG_LEVEL", "WARNING")
