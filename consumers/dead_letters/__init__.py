"""Dead letters: store, list, and resend messages that could not be delivered."""

from consumers.dead_letters.letter import Kind
from consumers.dead_letters.store import Dead, DeadLetters

__all__ = ["Dead", "DeadLetters", "Kind"]
