# The stages that need torch: train-rl, train-sft, and rollout, distill and eval with transformers.
ARG BASE=python:3.11-slim
FROM ${BASE}
WORKDIR /opt/pelican
# One heavy layer, which the rollout image shares.
COPY requirements/train.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/train.txt
COPY pyproject.toml README.md ./
COPY pelican pelican
COPY components components
COPY pipelines pipelines
ENV PYTHONPATH=/opt/pelican PELICAN_HOME=/opt/pelican PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "pelican"]
