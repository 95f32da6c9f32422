# The pipeline's steps: parameters become jobs. No torch.
ARG BASE=python:3.11-slim
FROM ${BASE}
WORKDIR /opt/pelican
COPY requirements/core.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/core.txt
COPY pyproject.toml README.md ./
COPY pelican pelican
COPY components components
COPY pipelines pipelines
ENV PYTHONPATH=/opt/pelican PELICAN_HOME=/opt/pelican PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["python", "-m", "pelican"]
