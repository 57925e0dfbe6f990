"""Every setting in one table: name, default and help. `rootstock serve` and ROOTSTOCK_… both come from it."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ENVIRONMENT_PREFIX = "ROOTSTOCK_"


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on")] = 8000
    store: Annotated[Path, Field(description="folder of adapter files; made when it is not there")] = Path(
        "adapters_store"
    )
    base_model: Annotated[str, Field(description="the frozen base: a folder, or a model's name")] = (
        "sentence-transformers/all-MiniLM-L6-v2"
    )
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="where the engine runs; auto: on a GPU, if torch finds one")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Field(description="precision of the base's linear layers; float16 on a GPU only, int8 on a processor only"),
    ] = "auto"
    threads: Annotated[int, Field(ge=0, description="processor threads of the engine; 0: as many as torch finds")] = 0
    batch_tokens: Annotated[int, Field(ge=1, description="tokens in one batch at most")] = 2048
    queue_tokens: Annotated[int, Field(ge=1, description="tokens waiting at most; more is refused with 503")] = 131_072
    max_inputs: Annotated[int, Field(ge=1, description="inputs in one request at most")] = 1024
    max_body_bytes: Annotated[int, Field(ge=1, description="size of a predict request at most")] = 2 * 1024 * 1024
    body_seconds: Annotated[float, Field(gt=0, description="a request's body must arrive within this time")] = 60.0
    max_adapter_bytes: Annotated[int, Field(ge=1, description="size of an uploaded adapter at most")] = 64 * 1024 * 1024
    uploads: Annotated[int, Field(ge=1, description="uploads under way at once; more are refused with 503")] = 4
    max_resident: Annotated[
        int,
        Field(ge=1, description="active adapters in memory at most; past it, those unused longest are read again"),
    ] = 1000
    pinned: Annotated[str, Field(description="tasks, separated by commas, that always stay in memory")] = ""
    spare_versions: Annotated[
        int, Field(ge=1, description="versions kept in memory, beside the active ones, for requests that name them")
    ] = 8
    stall_seconds: Annotated[float, Field(gt=0, description="a batch that runs longer makes /healthz fail")] = 60.0


def environment_name(setting: str) -> str:
    return ENVIRONMENT_PREFIX + setting.upper()
