"""Adapters that other libraries saved, in our own tensors and manifest.

Whatever is not understood is refused by the name of its field or tensor: each tensor of a folder must be asked for
once, and each that a config promises must be there. A source is a file here and a row in `SOURCES`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.adapters.foreign import adapterhub, peft
from service.adapters.foreign.folder import CONFIG, read_config
from service.adapters.foreign.imported import Base, Imported
from service.errors import BadAdapter

Reader = Callable[[Path, Mapping[str, Any], Base, Sequence[str] | None], Imported]
SOURCES: Mapping[str, Reader] = {"peft_type": peft.read, "model_type": adapterhub.read}  # by a field of their config


def read_foreign(folder: Path, base: Base, labels: Sequence[str] | None = None) -> Imported:
    """Reads what AdapterHub's library or PEFT saved.

    Args:
        labels: one for each row of the head, where the folder names none or shall not be asked.

    Raises:
        BadAdapter: naming the field or tensor that is missing, left over, or not expressible.
    """
    config = read_config(folder / CONFIG)
    for field, read in SOURCES.items():
        if field in config:
            return read(folder, config, base, labels)
    raise BadAdapter(f"{CONFIG} is neither AdapterHub's nor PEFT's: it has no field {' or '.join(SOURCES)}")


__all__ = ["Base", "Imported", "read_foreign"]
