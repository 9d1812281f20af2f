"""How many examples the laws of property tests are tried with: some by default, each time others,
and all with `--slow`, which `conftest.py` sets. FEW is what a law gets that asks for no number.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypothesis import settings

FEW = 30
SHARE = 5
"""of what a law asks for one in so many, but no fewer than FEW"""

all_of_them = False


def examples(most: int, **more: Any) -> "settings":
    """For a law that needs as many with `--slow`."""
    from hypothesis import settings

    count = most if all_of_them else min(most, max(FEW, most // SHARE))
    return settings(max_examples=count, deadline=None, **more)


def use() -> None:
    """For those that ask for no number, once the tests are read."""
    from hypothesis import settings

    if not all_of_them:
        settings.register_profile("few", max_examples=FEW, deadline=None)
        settings.load_profile("few")
