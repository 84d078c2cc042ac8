"""Nodes on machines that are reached by SSH. What is sent to them says so in its first line, and imports no laila."""
