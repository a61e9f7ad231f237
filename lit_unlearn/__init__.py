"""Make a trained image classifier forget, attack the result, and say honestly whether it forgot."""

__version__ = "0.1.0"
