"""How the log is written: lines of text for people, or a JSON object a line for programs."""

import logging
from typing import Literal

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter
from typing_extensions import override

LogFormat = Literal["text", "json"]
# What is no field of ours: what each record has, and the server's messages once more, coloured.
OWN = frozenset({*RESERVED_ATTRS, "color_message"})


class _TextFormatter(logging.Formatter):
    """The message, and behind it the fields that came along with `extra`."""

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = [f"{name}={value}" for name, value in record.__dict__.items() if name not in OWN]
        return " ".join([super().formatMessage(record), *fields])


def formatter(form: LogFormat) -> logging.Formatter:
    if form == "text":
        return _TextFormatter("%(levelname)s %(name)s: %(message)s")
    return JsonFormatter(
        ["levelname", "name", "message"],
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger"},
        reserved_attrs=OWN,
    )


def set_up(form: LogFormat) -> None:
    """Has everything that this process logs, warnings too, written to its standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
