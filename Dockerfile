# One stage installs, one runs. For a processor, with PyTorch's CPU index for pip to find that build (docs/getting-started.md):
#   docker build --build-arg PIP_EXTRA_INDEX_URL=<PyTorch's CPU index> -t rootstock .
# For a GPU; CUDA's libraries come along as packages, and the host needs no more than its driver:
#   docker build --build-arg DEVICE=cuda -t rootstock:cuda .
FROM python:3.12-slim AS build
ARG DEVICE=cpu
ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# The compiler is for the kernels; what runs them later needs none, and any version of it will do.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv --without-pip /venv
COPY requirements.lock requirements-telemetry.lock ./
RUN if [ "$DEVICE" = cuda ]; then pip --python /venv/bin/python install "$(grep ^torch== requirements.lock)"; fi
RUN pip --python /venv/bin/python install --no-deps -r requirements.lock -r requirements-telemetry.lock
COPY pyproject.toml README.md LICENSE ./
COPY service service
RUN pip --python /venv/bin/python install --no-deps .
# A seventh of torch is for those who build on it. The import fails here, and not at the first start, where its build for
# this device was not found.
RUN rm -rf /venv/lib/python3*/site-packages/torch/include /venv/lib/python3*/site-packages/torch/test \
    && /venv/bin/python -c "import service.api.app"

FROM python:3.12-slim
LABEL org.opencontainers.image.title="Rootstock" \
    org.opencontainers.image.description="Many text tasks answered from one frozen transformer" \
    org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home rootstock
COPY --from=build /venv /venv
WORKDIR /srv/rootstock
COPY --chown=rootstock adapters_store adapters_store
RUN install --directory --owner=rootstock keys && chown rootstock .
USER 10001
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# All of the container's addresses: it starts with ROOTSTOCK_KEYS_FILE, or with ROOTSTOCK_ALLOW_ANYONE=true.
ENV ROOTSTOCK_HOST=0.0.0.0 ROOTSTOCK_LOG_FORMAT=json
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=3s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["rootstock", "serve"]
