"""The ways to a server: HTTP and gRPC, blocking and for asyncio. Each is small; the codecs beside them do no I/O."""
