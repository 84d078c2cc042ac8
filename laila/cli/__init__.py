"""The `laila` command."""
