"""How many examples the laws of property tests are tried with: some by default, each time others,
and all with `--slow`, which `conftest.py` sets. FEW is what a law gets that asks for no number.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypothesis import settings

FEW = 20
ALL = 100
SHARE = 5
"""of what a law asks for one in so many, but no fewer than FEW"""

all_of_them = False


def examples(most: int, **more: Any) -> "settings":
    """For a law that needs as many with `--slow`."""
    from hypothesis import settings

    count = most if all_of_them else min(most, max(FEW, most // SHARE))
    return settings(max_examples=count, deadline=None, **more)


def use() -> None:
    """For those that ask for no number; to be called before the tests are read. None has to be
    done within a time, which a busy machine may take."""
    from hypothesis import settings

    settings.register_profile("tests", max_examples=ALL if all_of_them else FEW, deadline=None)
    settings.load_profile("tests")
