"""The only reader for entry points: frozen dataclasses, never rows."""
