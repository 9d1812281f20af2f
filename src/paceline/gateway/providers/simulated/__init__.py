"""A provider of LLM answers in this very process, for both dialects: nothing leaves the machine,
and no model is asked. It is what `/v1` offers before a key of a real one is set, and is named as
simulated wherever its answers are seen: in the models' names, in the texts, in a header.

`provider.py` has time and faults, `wishes.py` what one caller may ask for; `openai.py`,
`completions.py`, `embeddings.py`, `moderations.py`, `responses.py` and `anthropic.py` the shapes of
each address, `saying.py` and `schema.py` what is in them.
"""

from paceline.gateway.providers.simulated.provider import NAME, SimulatedProvider, Simulation
from paceline.gateway.providers.simulated.wishes import MODELS, offers

__all__ = ["MODELS", "NAME", "SimulatedProvider", "Simulation", "offers"]
