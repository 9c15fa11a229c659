"""The control plane for Ollama model servers."""

__version__ = "0.1.0"
