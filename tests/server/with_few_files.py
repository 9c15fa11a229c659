"""`manage.py` with few open files, and little time for a request to arrive."""

from __future__ import annotations

import resource

import project.connections
from project.command import main

FILES = 1024

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    project.connections.HEADERS_TIMEOUT_S = 3.0
    project.connections.BODY_INTERVAL_S = 1.0
    main()
