"""The official SDKs, imported when somebody first asks one for something.

That takes seconds, and every process that reads the tests would wait for it; only one runs those
that need them (`conftest.py`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import anthropic as anthropic
    import openai as openai
else:
    from importlib import import_module

    class _Later:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):  # pytest looks whether it is a fixture, a test, a mock
                raise AttributeError(name)
            return getattr(import_module(self._name), name)

    anthropic, openai = _Later("anthropic"), _Later("openai")
