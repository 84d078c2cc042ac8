"""Workloads by name: docs/lab.md has what each shows."""
