"""placeholder until the real one lands"""


def doctor() -> None:
    """Placeholder."""
