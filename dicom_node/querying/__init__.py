"""How keys match what is held, in any character set."""
