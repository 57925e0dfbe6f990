"""Rootstock: many text tasks answered from one frozen transformer."""

__version__ = "0.1.0"
