"""The only reader for entrances: frozen dataclasses, no rows."""
