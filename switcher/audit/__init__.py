"""The audit trail: append, search and review entries; sign, deliver and verify them; raise
alarms."""
