"""Adapters stacked in slots, for torch's operators on a processor or a GPU: no Python runs for each adapter."""

from service.engine.slots.grouped import Grouped, on_device
from service.engine.slots.stack import Slots, Slotted

__all__ = ["Grouped", "Slots", "Slotted", "on_device"]
