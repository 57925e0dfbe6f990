"""The service's client, for programs that wait and for those that await: what the command line is built on."""

from service.client.answers import (
    CandidateFacts,
    Entity,
    Prediction,
    ScoredLabel,
    Stats,
    TaskFacts,
    TaskVersions,
    VersionFacts,
)
from service.client.client import DEFAULT_URL, KEY_VARIABLE, AsyncClient, Client, Inputs
from service.client.retry import NEVER, Retry

__all__ = [
    "DEFAULT_URL",
    "KEY_VARIABLE",
    "NEVER",
    "AsyncClient",
    "CandidateFacts",
    "Client",
    "Entity",
    "Inputs",
    "Prediction",
    "Retry",
    "ScoredLabel",
    "Stats",
    "TaskFacts",
    "TaskVersions",
    "VersionFacts",
]
