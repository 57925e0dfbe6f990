"""For those who run the service: health, metrics, and what everything costs."""

import asyncio

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.access import needs
from service.api.problems import documented, formed
from service.api.schemas import AdapterStats, BaseStats, StatsAnswer
from service.api.services import ServicesHere

router = APIRouter(tags=["operations"])


@router.get("/healthz", responses=documented(503), summary="Alive: the engine thread is running and moves")
async def healthz(request: Request, services: ServicesHere) -> Response:
    busy = services.runner.busy_seconds()
    if busy is None:
        return formed(request.scope, 503, "engine_stopped", "The engine is not running", "the engine thread has ended")
    if busy > services.settings.stall_seconds:
        detail = f"one batch has been running for {busy:.0f} s"
        return formed(request.scope, 503, "engine_stalled", "The engine does not move", detail)
    return Response('{"status":"alive"}', media_type="application/json")


@router.get("/readyz", responses=documented(503), summary="Ready: the base is loaded and takes work")
async def readyz(request: Request, services: ServicesHere) -> Response:
    detail = ""
    if services.lifecycle.stopping:
        detail = "the service is stopping and takes no new work"
    elif services.runner.busy_seconds() is None:
        detail = "the engine thread is not running"
    if detail:
        return formed(request.scope, 503, "not_ready", "The service is not ready", detail)
    return Response('{"status":"ready"}', media_type="application/json")


@router.get("/metrics", response_class=Response, summary="Prometheus", dependencies=[needs("metrics")])
async def metrics(services: ServicesHere) -> Response:
    services.trials.refresh()
    rendered = await asyncio.to_thread(services.metrics.render)
    return Response(rendered, media_type=CONTENT_TYPE_LATEST)


@router.get("/stats", summary="What the tasks cost: |w| + Σ|v| beside N·|w|", dependencies=[needs()])
async def stats(services: ServicesHere) -> StatsAnswer:
    base, residents = services.base, list(services.registry.residents())
    served = services.registry.served()
    parameters = sum(version.parameters for version in served)
    return StatsAnswer(
        base=BaseStats(
            name=base.name,
            parameters=base.parameters,
            bytes=base.bytes,
            fingerprint=base.fingerprint,
            dtype=base.precision,
        ),
        adapters=AdapterStats(
            tasks=len(served),
            resident=len(residents),
            parameters=parameters,
            bytes=sum(resident.bytes for resident in residents),
        ),
        ratio=(base.parameters + parameters) / base.parameters,
        fine_tuned_parameters=len(served) * base.parameters,
    )
