# rollout, distill and eval with vLLM, which needs a GPU: the train image, and vllm upon it.
# The first layers are the same in all three images.
ARG BASE=python:3.11-slim
FROM ${BASE}
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/pelican
COPY requirements/core.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/core.txt
# One heavy layer, which the train and rollout images share.
COPY requirements/train.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/train.txt
# Not in the lock: its dependencies differ by accelerator. The constraint keeps torch, kfp and all
# others but the two of which vllm 0.31.0 takes older versions only.
RUN sed -n 's/^\([a-z0-9._-]*==[^ ]*\).*/\1/p' requirements/train.txt \
        | grep -vE '^(numpy|cuda-bindings)==' > requirements/pins.txt \
    && pip install --no-cache-dir -c requirements/pins.txt vllm==0.31.0
COPY pyproject.toml README.md ./
COPY pelican pelican
COPY components components
COPY pipelines pipelines
RUN python -m compileall -q pelican components pipelines
ENV PYTHONPATH=/opt/pelican PELICAN_HOME=/opt/pelican PYTHONUNBUFFERED=1 HOME=/tmp
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pelican-rollout" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
ENTRYPOINT ["python", "-m", "pelican"]
