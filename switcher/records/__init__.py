"""The only writer of domain rows: each change and its audit entry are one transaction.

The signal `changed` is sent after a commit, in the thread that wrote. It is only a wake-up: whoever
misses it reads the rows.
"""

from switcher.audit.ledger import Actor, changed

__all__ = ["Actor", "changed"]
