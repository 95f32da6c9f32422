# rollout, distill and eval with vLLM, which needs a GPU: the train image, and vllm upon it.
ARG BASE=python:3.11-slim
FROM ${BASE}
WORKDIR /opt/pelican
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
ENV PYTHONPATH=/opt/pelican PELICAN_HOME=/opt/pelican PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "pelican"]
