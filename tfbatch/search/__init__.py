"""The search: space, oracle, loop, verification, answer."""
