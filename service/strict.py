"""Models that refuse what they do not know, and do not waste time on it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class Strict(BaseModel):
    """A frozen model without unknown fields.

    It stops at the first one. pydantic would list them all, and a list of errors as long as what was sent is a way to
    stop a service; for the same reason long lists in these models are fields with `fail_fast`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in value:
                if name not in cls.model_fields:
                    raise PydanticCustomError("unknown_field", "there is no field {name}", {"name": str(name)[:100]})
        return value
