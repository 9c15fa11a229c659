"""Switching: ask for one, plan one without doing it, and the worker that runs them."""
