"""Messages that could not go where they should: how they are buried, looked at, and sent back."""

from consumers.dead_letters.store import DeadLetters, Kind

__all__ = ["DeadLetters", "Kind"]
