"""Every setting is a flag, an environment variable and a line of `rootstock serve --help`; all from one table."""

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI
from pydantic import ValidationError

from service.api import server
from service.cli import main
from service.settings import Settings, environment_name

# Another value than the default, as a shell would write it and as it is meant.
OTHERS: dict[str, tuple[str, Any]] = {
    "host": ("::1", "::1"),
    "port": ("9000", 9000),
    "keys_file": ("some/keys.json", "some/keys.json"),
    "allow_anyone": ("true", True),
    "hosts": ("here,there", "here,there"),
    "metrics_open": ("true", True),
    "log_format": ("json", "json"),
    "access_log": ("false", False),
    "traces": ("true", True),
    "metrics_tasks": ("7", 7),
    "store": ("some/folder", "some/folder"),
    "follow_seconds": ("0.5", 0.5),
    "base_model": ("some/model", "some/model"),
    "device": ("cpu", "cpu"),
    "dtype": ("bfloat16", "bfloat16"),
    "threads": ("3", 3),
    "batch_tokens": ("99", 99),
    "batch_seconds": ("0.2", 0.2),
    "queue_tokens": ("999", 999),
    "queue_seconds": ("3.5", 3.5),
    "short_queue_seconds": ("0.3", 0.3),
    "weights": ("spam=2,+=0.5", "spam=2,+=0.5"),
    "quotas": ("spam = 100", "spam = 100"),
    "timeout_seconds": ("5", 5.0),
    "max_timeout_seconds": ("50", 50.0),
    "max_requests": ("77", 77),
    "max_inputs": ("7", 7),
    "max_body_bytes": ("1000", 1000),
    "body_seconds": ("1.5", 1.5),
    "max_adapter_bytes": ("2000", 2000),
    "uploads": ("2", 2),
    "max_resident": ("5", 5),
    "pinned": ("spam,mood", "spam,mood"),
    "spare_versions": ("1", 1),
    "unload_seconds": ("0", 0.0),
    "stall_seconds": ("0.5", 0.5),
    "stop_seconds": ("2.5", 2.5),
}
every_setting = pytest.mark.parametrize("name", Settings.model_fields)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that `serve` would have run with; it only believes that it serves."""
    served: list[Settings] = []

    class Server:
        failure = None

        def __init__(self, settings: Settings, load: Callable[[], FastAPI]) -> None:
            served.append(settings)

        def run(self) -> None:
            pass

    monkeypatch.setattr(server, "Server", Server)
    return served


def serve(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["serve", *arguments], env=environment)


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def test_the_table_of_this_test_is_whole() -> None:
    assert list(OTHERS) == list(Settings.model_fields)


@every_setting
def test_the_help_shows_its_flag_its_variable_its_default_and_its_meaning(name: str) -> None:
    result = CliRunner().invoke(main, ["serve", "--help"], max_content_width=1000, terminal_width=1000)
    [line] = [option for option in result.output.split("\n  -") if option.startswith(f"{flag(name)[1:]} ")]
    field = Settings.model_fields[name]
    assert field.description
    assert field.description in line
    assert f"env var: ROOTSTOCK_{name.upper()};" in line
    default = field.default if field.default != "" else '""'
    assert f"default: {default}]" in line


@every_setting
def test_its_variable_takes_effect(served: list[Settings], name: str) -> None:
    text, value = OTHERS[name]
    result = serve(**{environment_name(name): text})
    assert result.exit_code == 0, result.output
    assert served == [Settings(**{name: value})]


@every_setting
def test_its_flag_beats_its_variable(served: list[Settings], name: str) -> None:
    text, value = OTHERS[name]
    result = serve(flag(name), text, **{environment_name(name): str(Settings.model_fields[name].default)})
    assert result.exit_code == 0, result.output
    assert served == [Settings(**{name: value})]


def test_without_flags_and_variables_the_defaults_are_served(served: list[Settings]) -> None:
    assert serve().exit_code == 0
    assert served == [Settings()]


def test_a_flag_alone_says_that_something_is_so(served: list[Settings]) -> None:
    assert serve("--allow-anyone", "--host", "0.0.0.0").exit_code == 0
    assert served == [Settings(host="0.0.0.0", allow_anyone=True)]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_an_address_of_this_machine_alone_needs_no_keys(served: list[Settings], host: str) -> None:
    assert serve("--host", host).exit_code == 0
    assert served == [Settings(host=host)]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "", "a-name", "localhost.example"])
def test_an_address_that_others_reach_needs_keys_or_that_it_is_said(served: list[Settings], host: str) -> None:
    refused = serve("--host", host)
    assert refused.exit_code == 1
    assert "no keys are asked for: name a keys_file" in refused.output
    assert "ROOTSTOCK_ALLOW_ANYONE=true" in refused.output
    assert not served
    assert serve("--host", host, "--keys-file", "keys.json").exit_code == 0
    assert serve("--host", host, ROOTSTOCK_ALLOW_ANYONE="true").exit_code == 0
    assert len(served) == 2


def test_the_server_listens_where_it_is_told() -> None:
    listening = server.Server(Settings(host="::1", port=9000), FastAPI).config
    assert (listening.host, listening.port) == ("::1", 9000)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("threads", "-1"),
        ("batch_tokens", "0"),
        ("batch_seconds", "0"),
        ("queue_tokens", "0"),
        ("queue_seconds", "0"),
        ("short_queue_seconds", "0"),
        ("weights", "spam"),
        ("weights", "spam=2,mood=much"),
        ("weights", "=2"),
        ("quotas", "spam=0"),
        ("quotas", "spam=-1"),
        ("quotas", "spam=nan"),
        ("timeout_seconds", "0"),
        ("max_timeout_seconds", "0"),
        ("max_requests", "0"),
        ("max_inputs", "0"),
        ("max_body_bytes", "0"),
        ("max_adapter_bytes", "0"),
        ("body_seconds", "0"),
        ("uploads", "0"),
        ("spare_versions", "0"),
        ("unload_seconds", "-1"),
        ("stall_seconds", "0"),
        ("stall_seconds", "nan"),
        ("stop_seconds", "0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_settings_name(served: list[Settings], name: str, value: str) -> None:
    result = serve(**{environment_name(name): value})
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {name}: ")
    assert not served


@pytest.mark.parametrize(("name", "value"), [("port", "many"), ("dtype", "float64"), ("stall_seconds", "long")])
def test_a_value_of_another_type_is_refused_by_flag_and_variable(served: list[Settings], name: str, value: str) -> None:
    result = serve(**{environment_name(name): value})
    assert result.exit_code == 2
    assert flag(name) in result.output
    assert environment_name(name) in result.output
    assert not served


def test_settings_are_fixed_and_known() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Settings(colour="red")  # type: ignore[call-arg]
