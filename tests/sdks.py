"""The official SDKs, imported when somebody first asks one for something.

That takes seconds, and every process that reads the tests would wait for it; only one runs those
that need them (`conftest.py`).
"""

from typing import TYPE_CHECKING, Any

__all__ = ["anthropic", "openai", "triton", "triton_aio"]

if TYPE_CHECKING:
    import anthropic
    import openai
    import tritonclient.http as triton  # type: ignore[import-untyped]
    import tritonclient.http.aio as triton_aio  # type: ignore[import-untyped]
else:
    from importlib import import_module

    class _Later:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            if name.startswith(("__", "_pytest", "_mock")):  # it looks whether this is a fixture
                raise AttributeError(name)
            return getattr(import_module(self._name), name)

    anthropic, openai = _Later("anthropic"), _Later("openai")
    triton, triton_aio = _Later("tritonclient.http"), _Later("tritonclient.http.aio")
