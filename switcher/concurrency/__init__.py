"""Threads for work that must not hold up an event loop, with their database connections."""
