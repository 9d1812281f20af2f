"""Which route a call that is relayed as it is may take, by its key. The same over a connection is
in test_llm.py."""

from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paceline.access.gate import Caller
from paceline.clock import Chance
from paceline.gateway.relay import Relay
from paceline.gateway.routes import Route, Tier
from paceline.gateway.routing import Router
from paceline.gateway.upstream import Target
from paceline.observe.board import Board
from paceline.terms.errors import NotAllowed
from paceline.web.llm import Llm

ONE = "/images/generations"
ROUTES = [
    Route("all", (Tier((Target("a"),)),), raw_paths=("/files", "/images", "/audio")),
    Route("mine", (Tier((Target("a", "real"),)),), raw_paths=("/images", "/batches", "/files")),
    Route("mine-*", (Tier((Target("b"),)),)),
    Route("off", (Tier((Target("c"),)),), raw_paths=("/rerank",)),
]
OFF = NotAllowed("it costs", value="c", remedy="Consent.")

ANYBODY = Caller("admin")
BOUND = Caller("client", "k", ("mine*",))


def llm() -> Llm:
    relay = SimpleNamespace(router=Router(ROUTES, Chance(), 0.0))
    return Llm(cast(Relay, relay), Board(), {"off": OFF})


@example("POST", ONE, "mine")
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT"]),
    st.sampled_from(
        [ONE, ONE + "?model=all", "/files", "/files/f", "/batches", "/audio/speech", "/rerank"]
    ),
    st.sampled_from(["", "all", "mine", "mine-1", "off", "nothing"]),
)
def test_a_bound_key_calls_one_model_of_its_own_by_its_own_route(
    method: str, path: str, model: str
) -> None:
    if (method, path, model) == ("POST", ONE, "mine"):
        assert llm().raw_route(method, path, model, BOUND).name == "mine"
    else:
        with pytest.raises(NotAllowed):
            llm().raw_route(method, path, model, BOUND)


def test_any_other_key_calls_whatever_is_relayed_by_some_route() -> None:
    for method, path, model, name in (
        ("GET", "/files/f", "", "all"),
        ("POST", "/batches", "", "mine"),
        ("POST", ONE, "mine", "mine"),
        ("POST", ONE, "mine-1", "all"),
    ):
        assert llm().raw_route(method, path, model, ANYBODY).name == name


@pytest.mark.parametrize("caller", [ANYBODY, Caller("client", "k", ("off",))])
def test_what_may_cost_money_is_withheld_here_too(caller: Caller) -> None:
    with pytest.raises(NotAllowed, match="it costs"):
        llm().raw_route("POST", "/rerank", "off", caller)
