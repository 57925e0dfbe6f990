"""Every setting in one table: name, default and help. `rootstock serve` and ROOTSTOCK_… both come from it."""

from ipaddress import ip_address
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

ENVIRONMENT_PREFIX = "ROOTSTOCK_"


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on")] = 8000
    keys_file: Annotated[
        str, Field(description="file of API keys, made by `rootstock keys`; without it, no key is asked for")
    ] = ""
    allow_anyone: Annotated[
        bool, Field(description="listen without keys also on an address that other machines reach")
    ] = False
    hosts: Annotated[
        str,
        Field(
            description="names, separated by commas, that requests may call this service by, beside localhost and "
            "plain addresses; *: any"
        ),
    ] = ""
    metrics_open: Annotated[bool, Field(description="answer /metrics without a key, also where there are keys")] = False
    log_format: Annotated[
        Literal["text", "json"], Field(description="the log as lines for people, or a JSON object a line")
    ] = "text"
    access_log: Annotated[bool, Field(description="a line in the log for each request, but for health and metrics")] = (
        True
    )
    traces: Annotated[
        bool,
        Field(
            description="send OpenTelemetry traces, as the OTEL_… variables say; needs the extra rootstock[telemetry]"
        ),
    ] = False
    metrics_tasks: Annotated[
        int, Field(ge=0, description="tasks with a label of their own in /metrics, the busiest; the rest share one")
    ] = 50
    store: Annotated[
        str,
        Field(
            description="where the adapter files are: a folder, made when it is not there, or s3://, gs:// or az://…"
        ),
    ] = "adapters_store"
    follow_seconds: Annotated[
        float, Field(ge=0, description="how often the store is looked at for what other services changed; 0: never")
    ] = 2.0
    base_model: Annotated[str, Field(description="the frozen base: a folder, or a model's name")] = (
        "sentence-transformers/all-MiniLM-L6-v2"
    )
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="where the engine runs; auto: on a GPU, if torch finds one")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8", "int16"],
        Field(description="precision of the base's linear layers; float16 on a GPU only, integers on a processor only"),
    ] = "auto"
    threads: Annotated[int, Field(ge=0, description="processor threads of the engine; 0: as many as torch finds")] = 0
    batch_tokens: Annotated[int, Field(ge=1, description="tokens in one batch at most")] = 2048
    batch_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="a batch is kept so small that it takes about this time, and half of it while requests are "
            "refused; 64 tokens at least",
        ),
    ] = 0.02
    queue_tokens: Annotated[int, Field(ge=1, description="tokens waiting at most; more is refused with 503")] = 131_072
    queue_seconds: Annotated[
        float, Field(gt=0, description="the same by the time that the engine takes for them, as it has been measured")
    ] = 1.0
    short_queue_seconds: Annotated[
        float, Field(gt=0, description="the same, from a refusal on until there has been none for a second")
    ] = 0.02
    weights: Annotated[
        str,
        Field(
            description="shares of a busy engine, as task=number, separated by commas; the others have 1; "
            "+: requests that name several tasks"
        ),
    ] = ""
    quotas: Annotated[
        str,
        Field(
            description="tokens a second that a task may have, as task=number, separated by commas; more is refused "
            "with 429"
        ),
    ] = ""
    timeout_seconds: Annotated[
        float,
        Field(gt=0, description="a request that names no timeout is answered within this time, or refused with 504"),
    ] = 60.0
    max_timeout_seconds: Annotated[float, Field(gt=0, description="a timeout that a request names at most")] = 600.0
    max_requests: Annotated[
        int, Field(ge=1, description="requests under way at most, of any kind; more are refused with 503")
    ] = 1024
    max_inputs: Annotated[int, Field(ge=1, description="inputs in one request at most")] = 1024
    max_body_bytes: Annotated[int, Field(ge=1, description="size of a predict request at most")] = 2 * 1024 * 1024
    body_seconds: Annotated[float, Field(gt=0, description="a request's body must arrive within this time")] = 60.0
    max_adapter_bytes: Annotated[int, Field(ge=1, description="size of an uploaded adapter at most")] = 64 * 1024 * 1024
    uploads: Annotated[int, Field(ge=1, description="uploads under way at once; more are refused with 503")] = 4
    max_resident: Annotated[
        int,
        Field(ge=1, description="active adapters in memory at most; past it, those asked for seldom are read again"),
    ] = 1000
    pinned: Annotated[str, Field(description="tasks, separated by commas, that always stay in memory")] = ""
    spare_versions: Annotated[
        int,
        Field(
            ge=1,
            description="versions kept in memory beside the active ones: candidates, those that were active before, "
            "and those that requests name",
        ),
    ] = 8
    unload_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="deleting or unloading an adapter is answered once no row under way needs it and its memory "
            "is free, or after this time",
        ),
    ] = 10.0
    stall_seconds: Annotated[float, Field(gt=0, description="a batch that runs longer makes /healthz fail")] = 60.0
    stop_seconds: Annotated[
        float, Field(gt=0, description="after SIGTERM, requests under way are answered within this time, or refused")
    ] = 20.0

    @field_validator("weights", "quotas")
    @classmethod
    def _refuse_what_are_no_numbers(cls, text: str) -> str:
        numbered(text)
        return text

    @field_validator("store", mode="before")
    @classmethod
    def _path(cls, store: Any) -> Any:
        return str(store) if isinstance(store, Path) else store

    @model_validator(mode="after")
    def _refuse_to_be_open_unasked(self) -> Self:
        if not (is_loopback(self.host) or self.keys_file or self.allow_anyone):
            raise PydanticCustomError(
                "open_to_all",
                "other machines reach {host}, and no keys are asked for: name a keys_file ({keys}), or say "
                "{anyone}=true",
                {
                    "host": self.host or "every address of this one",
                    "keys": environment_name("keys_file"),
                    "anyone": environment_name("allow_anyone"),
                },
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name other than localhost may lead anywhere."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listed(names: str) -> list[str]:
    """The names in a setting that takes several."""
    return [name.strip() for name in names.split(",") if name.strip()]


def numbered(text: str) -> dict[str, float]:
    """The number that each name has in a setting of the form name=number,…

    Raises:
        PydanticCustomError: which is a ValueError; naming the part that is wrong.
    """
    numbers = {}
    for part in listed(text):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not (name.strip() and isfinite(number) and number > 0):
            raise PydanticCustomError("no_number", "{part} is not of the form name=number", {"part": repr(part)})
        numbers[name.strip()] = number
    return numbers


def flag_name(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def environment_name(setting: str) -> str:
    return ENVIRONMENT_PREFIX + setting.upper()
