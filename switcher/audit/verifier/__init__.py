"""What proves the audit trail: the verifier, which needs nothing of the rest."""
