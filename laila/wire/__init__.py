"""The protocol without I/O: bytes in, events out; no socket, clock, thread or asyncio. See docs/wire.md."""
