"""Loaded before the settings are: tests keep their data apart, each run in a folder of its own."""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("SWITCHER_DATA_DIR", tempfile.mkdtemp(prefix="switchboard-test-"))
os.environ.setdefault("SWITCHER_LOG_LEVEL", "WARNING")
