"""What Prometheus scrapes: one table of families, and which tasks have a label of their own."""

from service.metrics.busiest import OTHER
from service.metrics.rows import Row
from service.metrics.table import PROCESS, ROWS, Metrics

__all__ = ["OTHER", "PROCESS", "ROWS", "Metrics", "Row"]
