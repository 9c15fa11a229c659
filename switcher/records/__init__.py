"""The only writer of rows: each change and its audit entry are one transaction.

`changed` is sent after a commit, in the thread that wrote, with what changed; it is a wake-up and
nothing more: who misses it reads the rows.
"""

from switcher.audit.ledger import Actor, changed

__all__ = ["Actor", "changed"]
