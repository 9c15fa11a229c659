"""The verifier of the audit trail, which needs no other part of Switchboard."""
