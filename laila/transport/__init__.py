"""Links between nodes: TLS over TCP, and an in-memory pair for tests."""
