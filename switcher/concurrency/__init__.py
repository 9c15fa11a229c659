"""Threads for work that must not block an event loop, with their database connections."""
