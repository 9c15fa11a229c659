"""What keeps the trail provable while the server runs: it signs, delivers, checks and alarms."""
