# One stage installs, one runs. For pip to find torch's CPU build, see README, Install:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=<PyTorch's CPU index> -t rootstock .
FROM python:3.12-slim AS build
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /build
# For the kernels; what runs them later needs no compiler.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv
COPY requirements.lock ./
RUN /venv/bin/pip install --no-cache-dir --no-deps -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY service service
# The import fails here, and not at the first start, where torch's CPU build was not found.
RUN /venv/bin/pip install --no-cache-dir --no-deps . && /venv/bin/python -c "import torch"

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home rootstock
COPY --from=build /venv /venv
WORKDIR /srv/rootstock
COPY --chown=rootstock adapters_store adapters_store
RUN install --directory --owner=rootstock keys && chown rootstock .
USER 10001
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# All of the container's addresses: it starts with ROOTSTOCK_KEYS_FILE, or with ROOTSTOCK_ALLOW_ANYONE=true.
ENV ROOTSTOCK_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=3s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["rootstock", "serve"]
