"""How long a token may live."""

MAX_LIFE_SECONDS = 400 * 86_400
"""A token that claims to live longer is refused: an agent's is renewed each year."""
