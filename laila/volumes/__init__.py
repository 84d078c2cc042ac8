"""Shared volumes: what a mount is, whether locks on it exclude, and how that was found out."""
