"""End-to-end encrypted disappearing messages for XMPP bots and clients."""

__version__ = "0.1.0"

__all__: list[str] = []
