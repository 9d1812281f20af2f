"""Providers and routes of LLM calls in the settings: what holds, and what a mistake is told as."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from paceline.cli.started import say
from paceline.config.source import Loaded
from paceline.gateway.prices import FREE, Price, Priced
from paceline.gateway.providers.simulated import MODELS
from paceline.gateway.routes import Hedge, Route, Tier
from paceline.gateway.upstream import KNOWN, SIMULATED, Target, costs, is_private
from paceline.terms.errors import BadSetting, LimitReached
from paceline.terms.limits import LLM_BEGINS_S, PRICES, PROVIDERS, ROUTES
from test_config import refused, source, written

LOCAL = '[providers.local]\nurl = "http://127.0.0.1:1/v1"\n'


def loaded(
    where: Path, text: str, environ: Mapping[str, str] | None = None, **flags: object
) -> Loaded:
    return source(written(where, text), environ, **flags).load()


def test_without_settings_there_is_the_simulated_provider_alone(tmp_path: Path) -> None:
    found = loaded(tmp_path, "")
    assert [each.name for each in found.providers] == [SIMULATED]
    names = [each.name for each in found.routes]
    assert {*MODELS, *(f"{each}:*" for each in MODELS), "simulated/*"} == set(names)
    found.check_start()


def test_a_key_in_the_environment_brings_its_provider(tmp_path: Path) -> None:
    environ = {"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": ""}
    found = loaded(tmp_path, "", environ)
    assert [(each.name, each.withheld) for each in found.providers] == [
        (SIMULATED, False),
        ("anthropic", True),
    ]
    assert str(found.origins["providers.anthropic.url"]) == "environment ANTHROPIC_API_KEY"
    found.check_start()
    found = loaded(tmp_path, "", environ, no_budget=True)
    assert [each.withheld for each in found.providers] == [False, False]
    assert "k" not in {str(value) for _, value in found.values()}


def test_a_file_that_names_providers_has_all_of_them(tmp_path: Path) -> None:
    found = loaded(tmp_path, LOCAL, {"OPENAI_API_KEY": "k"})
    assert [each.name for each in found.providers] == ["local"]


def test_a_gateway_serves_no_example_unless_it_is_named(tmp_path: Path) -> None:
    assert [each.name for each in loaded(tmp_path, "").models] == ["digits"]
    assert loaded(tmp_path, LOCAL).models == ()
    found = loaded(tmp_path, LOCAL + "[models.digits]\n")
    assert [each.name for each in found.models] == ["digits"]
    environ = {"ANTHROPIC_API_KEY": "k"}  # it may be there for something else
    assert [each.name for each in loaded(tmp_path, "", environ).models] == ["digits"]


def test_a_known_provider_needs_no_more_than_its_name(tmp_path: Path) -> None:
    found = loaded(tmp_path, "[providers.openai]\n", no_budget=True)
    assert found.providers == (KNOWN["openai"],)


def test_a_provider_may_know_the_older_name_for_the_most_tokens_alone(tmp_path: Path) -> None:
    found = loaded(
        tmp_path, LOCAL + 'tokens_field = "max_tokens"\n[providers.mistral]\n', no_budget=True
    )
    assert [each.tokens_field for each in found.providers] == ["max_tokens", "max_tokens"]
    assert "tokens_field" in refused(tmp_path, LOCAL + 'tokens_field = "tokens"\n')


def test_how_long_a_stream_waits_for_content_is_said_by_its_route(tmp_path: Path) -> None:
    text = LOCAL + '[routes.a]\ntargets = ["local/m"]\nbegin_ms = 20000\n'
    text += '[routes.b]\ntargets = ["local/m"]\n'
    found = {each.name: each.begins_s for each in loaded(tmp_path, text).routes}
    assert (found["a"], found["b"]) == (20.0, LLM_BEGINS_S)


def test_what_may_cost_needs_consent_to_start(tmp_path: Path) -> None:
    environ = {"OPENAI_API_KEY": "k"}
    with pytest.raises(BadSetting, match="--no-budget"):
        loaded(tmp_path, "[providers.openai]\n", environ).check_start()
    loaded(tmp_path, "[providers.openai]\n", environ, no_budget=True).check_start()
    own = '[providers.own]\nurl = "https://llm.corp.example"\nprivate = true\n'
    loaded(tmp_path, own).check_start()
    loaded(tmp_path, LOCAL).check_start()


def test_a_key_that_is_not_there_keeps_it_from_starting(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="OPENAI_API_KEY"):
        loaded(tmp_path, "[providers.openai]\n", no_budget=True).check_start()


def test_a_route_is_read_as_it_is_written(tmp_path: Path) -> None:
    text = (
        LOCAL + '[providers.other]\nkind = "anthropic"\nurl = "http://localhost:2"\n'
        '[routes."gpt-4.1"]\ntargets = ["local/a/b", "other"]\nweights = [3, 0]\n'
        'fallbacks = ["other/c"]\nretries = 1\nhedge = true\nhedge_ms = 200\npatience_ms = 900\n'
        'timeout_s = 30\nleast_latency = true\nraw = ["/files"]\n'
    )
    found = loaded(tmp_path, text)
    assert found.routes[0] == Route(
        "gpt-4.1",
        (
            Tier((Target("local", "a/b"), Target("other")), (3.0, 0.0), "least_latency"),
            Tier((Target("other", "c"),)),
        ),
        retries=1,
        hedge=Hedge(0.2),
        patience_s=0.9,
        timeout_s=30.0,
        raw_paths=("/files",),
    )
    assert not [*found.routes[0].faults()]
    assert str(found.origins['routes."gpt-4.1".weights']).endswith(":8")


def test_models_are_routes_of_their_own_and_the_first_one_has_them(tmp_path: Path) -> None:
    text = LOCAL + 'models = ["m", "n-*"]\n[providers.b]\nurl = "http://[::1]:1"\nmodels = ["m"]\n'
    text += '[routes.r]\ntargets = ["b"]\n'
    found = {each.name: each.tiers[0].targets[0] for each in loaded(tmp_path, text).routes}
    assert found == {
        "r": Target("b"),
        "m": Target("local", "m"),
        "n-*": Target("local", "n-*"),
        "local/*": Target("local", "*"),
        "b/*": Target("b", "*"),
    }


PROVIDER = "[providers.p]\n"
FAULTS = {
    "no address": (PROVIDER, 1, "p has no address"),
    "a known name misspelt": ("[providers.opnai]\n", 1, "Did you mean openai"),
    "not http": (PROVIDER + 'url = "ftp://x"', 2, "no address"),
    "no host": (PROVIDER + 'url = "https:///v1"', 2, "no address"),
    "a password": (PROVIDER + 'url = "https://u:sesame@x/v1"', 2, "no address"),
    "a query": (PROVIDER + 'url = "https://x/v1?a=b"', 2, "no address"),
    "a port that is none": (PROVIDER + 'url = "https://x:99999/v1"', 2, "no address"),
    "in the clear": (PROVIDER + 'url = "http://llm.example/v1"', 2, "in the clear"),
    "a key": (PROVIDER + 'url = "https://x"\nkey_env = "sk-sesame"', 3, "never the key itself"),
    "a key under its own name": (PROVIDER + 'api_key = "sesame"', 2, "key_env"),
    "a kind": (PROVIDER + 'kind = "google"', 2, "one of openai, anthropic, simulated"),
    "a real simulation": ('[providers.s]\nkind = "simulated"\nurl = "https://x"', 2, "simulated"),
    "a star in the middle": (LOCAL + 'models = ["a*b"]', 3, "cannot be what they are called"),
    "a name of a provider": ('[providers."a b"]\nurl = "https://x"', 1, "Use up to 32 letters"),
    "a name of a route": (LOCAL + '[routes."a b"]\ntargets = ["local"]', 3, "Use up to 200"),
    "no target": (LOCAL + "[routes.r]\n", 3, "leads nowhere"),
    "a strange target": (LOCAL + '[routes.r]\ntargets = ["lokal/m"]', 4, "Did you mean local"),
    "a strange fallback": (
        LOCAL + '[routes.r]\ntargets = ["local"]\nfallbacks = ["x/m"]',
        5,
        "there is local",
    ),
    "weights": (LOCAL + '[routes.r]\ntargets = ["local"]\nweights = [1, 2]', 5, "other weights"),
    "weights of text": (LOCAL + '[routes.r]\nweights = ["1"]', 4, "a list of whole numbers"),
    "raw": (LOCAL + '[routes.r]\ntargets = ["local"]\nraw = ["/../x"]', 5, "no address below /v1"),
    "retries": (LOCAL + "[routes.r]\nretries = 11", 4, "from 0 to 10"),
    "a section that is none": ("providers = 1\n", 1, "providers is a section"),
}


@pytest.mark.parametrize(("text", "line", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    told = refused(tmp_path, text)
    assert f"paceline.toml:{line}: " in told
    assert said in told
    assert "sesame" not in told


def test_there_are_bounds(tmp_path: Path) -> None:
    many = "".join(LOCAL.replace("local", f"p{number}") for number in range(PROVIDERS + 1))
    with pytest.raises(LimitReached):
        loaded(tmp_path, many)
    models = ", ".join(f'"m{number}"' for number in range(200))
    full = "".join(
        LOCAL.replace("local", f"p{number}") + f"models = [{models}]\n"
        for number in range(ROUTES // 200 + 1)
    )
    with pytest.raises(LimitReached):
        loaded(tmp_path, full)


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://localhost/v1", True),
        ("https://10.1.2.3", True),
        ("https://[fd00::1]/", True),
        ("https://api.openai.com/v1", False),
        ("https://8.8.8.8", False),
        ("https://localhost.example", False),
    ],
)
def test_an_own_address_is_told_from_others(url: str, private: bool) -> None:
    assert is_private(url) is private


def test_every_known_provider_costs_but_the_simulated_one() -> None:
    assert {name for name, each in KNOWN.items() if not costs(each)} == {SIMULATED}
    assert {each.removesuffix(":*") for each in KNOWN[SIMULATED].models} == set(MODELS)


# --- Prices -----------------------------------------------------------------------------------


def test_prices_are_read_as_they_are_written(tmp_path: Path) -> None:
    text = LOCAL + (
        '[prices."local/gpt-4o"]\ninput = 2.5\noutput = 10\n'
        '[prices."local/claude-*"]\ninput = 3\noutput = 15\ncached_input = 0.3\n'
        "cache_write = 3.75\ncache_write_1h = 6\n"
        '[prices."local/*"]\ninput = 0\noutput = 0\n'
    )
    assert loaded(tmp_path, text).prices == (
        Priced("local/gpt-4o", Price(2_500_000, 10_000_000, 2_500_000)),
        Priced("local/claude-*", Price(3_000_000, 15_000_000, 300_000, 3_750_000, 6_000_000)),
        Priced("local/*", FREE),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[prices."local/m"]\ninput = 1\n', "has no output"),
        ('[prices."local/m"]\noutput = 1\n', "has no input"),
        ('[prices."lcoal/m"]\ninput = 1\noutput = 1\n', "Did you mean local?"),
        ("[prices.local]\ninput = 1\noutput = 1\n", "PROVIDER/MODEL"),
        ('[prices."local/m"]\ninput = -1\noutput = 1\n', "0 to"),
        ('[prices."local/m"]\ninput = 1\noutput = 1\ncache = 1\n', "cache"),
        ('[prices."local/m *"]\ninput = 1\noutput = 1\n', "name of one of the prices"),
    ],
)
def test_a_price_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, LOCAL + text)


def test_prices_have_a_bound(tmp_path: Path) -> None:
    each = '[prices."local/{}"]\ninput = 1\noutput = 1\n'
    text = LOCAL + "".join(each.format(number) for number in range(PRICES + 1))
    with pytest.raises(LimitReached, match="prices"):
        loaded(tmp_path, text)


def test_who_starts_a_gateway_is_shown_what_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say(loaded(tmp_path, LOCAL), "http://here", {}, as_json=False)
    said = capsys.readouterr().out
    assert "  try    curl http://here/v1/models\n" in said
    assert "model  " not in said
