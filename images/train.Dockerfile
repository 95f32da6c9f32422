# The stages that need torch: train-rl, train-sft, and rollout, distill and eval with transformers.
# The first layers are the same in all three images.
ARG BASE=python:3.11-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7
FROM ${BASE}
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/pelican
COPY requirements/core.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/core.txt
# Triton compiles its launcher at the first kernel: a C compiler, and Python's headers where the base
# has them in a package of their own.
RUN apt-get update \
    && python3 -c "import pathlib, sysconfig as s; print('' if pathlib.Path(s.get_paths()['include'], 'Python.h').exists() else 'python3-dev')" \
    | xargs apt-get install -y --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV CC=gcc CXX=g++
# One heavy layer, which the train and rollout images share.
COPY requirements/train.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/train.txt
COPY images/compile_triton.py images/
RUN python images/compile_triton.py
COPY pyproject.toml README.md ./
COPY pelican pelican
COPY components components
COPY pipelines pipelines
RUN python -m compileall -q pelican components pipelines
ENV PYTHONPATH=/opt/pelican PELICAN_HOME=/opt/pelican PYTHONUNBUFFERED=1 HOME=/tmp
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pelican-train" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["python", "-m", "pelican"]
