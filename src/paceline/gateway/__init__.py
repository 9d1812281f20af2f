"""LLM calls: relayed to providers, in the dialects of two vendors. Not for models of our own, which
are `serve/`'s. Wired in `app.py`; reached through `web/llm.py`."""
