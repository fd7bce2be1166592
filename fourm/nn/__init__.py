"""Shared network parts: attention, the trunk, positions."""
