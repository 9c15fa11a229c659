"""The fault lab: whole switches over one simulated clock, with what may go wrong in between.

The steps of a switch are a generator of effects (`switching.effects`), so a schedule of crashes,
pauses, lost answers and strangers on the host is deterministic: the same seed and number give the
same run to the last write. The records are the real ones, on a database in memory; the host is the
simulator's pure machine. After each schedule the invariants are checked (`invariants`).
"""
