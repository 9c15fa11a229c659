"""Switching: request a switch, plan one without running it, and the worker that runs them."""
