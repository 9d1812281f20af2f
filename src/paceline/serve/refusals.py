"""What is told to whoever is not served: why, what was predicted, and when to come again.

Cheap, for under overload most of the work may be saying no. What they mean in HTTP is in the table
of `terms/errors.py`. Called by `runner.py`.
"""

from paceline.serve.core import End, Refused
from paceline.terms.errors import DeadlineExceeded, Overloaded, PacelineError


def refusal(model: str, refused: Refused, alone_s: float, left_s: float) -> PacelineError:
    """At the door. `alone_s`: what the request would take if nothing else were there."""
    if refused.why == "full":
        return Overloaded(
            f"as much waits for {model} as may",
            remedy="Send it again in a moment, or fewer at a time.",
        )
    left_s = max(0.0, left_s)
    if alone_s > left_s:
        return DeadlineExceeded(
            f"{model} needs about {_ms(alone_s)} for this request, which has {_ms(left_s)} left",
            remedy="Give it more time, or send fewer rows in one request.",
        )
    return Overloaded(
        f"{model} would answer this request in about {_ms(refused.wait_s)}, "
        f"and it has {_ms(left_s)} left",
        remedy=f"Send it again in {_ms(refused.wait_s - left_s)}, or give it more time.",
    )


def given_up(end: End) -> PacelineError:
    """Of what was let in."""
    if end == "shed":
        return Overloaded(
            "the request made room for one of a higher priority",
            remedy="Send it again in a moment, or with a higher priority.",
        )
    return DeadlineExceeded(
        "the request would have been answered too late, and was not run",
        remedy="Give it more time, or send fewer requests at a time.",
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
