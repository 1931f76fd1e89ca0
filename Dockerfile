# What runs without a GPU: studies on the virtual device, race analysis, reports, tests, and the artefact's claims.
#
#   docker build -t hpz-cpu .
#   docker run --rm -v "$PWD/results:/hpz/results" hpz-cpu make kick         five minutes; or make artifact
#
# slurm/container/Dockerfile is what ranks train in on a cluster with GPUs.
FROM python:3.11-slim-bookworm

# git applies the patches; a compiler builds what has no wheel; iproute2 reads network counters.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends build-essential git iproute2 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /hpz
# What is installed changes seldom, so it comes before the code. A wheelhouse/, where there is one, is used.
COPY Makefile constraints.txt pyproject.toml setup.py README.md LICENSE ./
COPY harness/__init__.py harness/
COPY analysis/__init__.py analysis/
COPY LICENSE wheelhouse* wheelhouse/
RUN make setup PYTHON=python3 && rm -rf wheelhouse
COPY . .
RUN .venv/bin/hpz plan experiments/laptop.yaml > /dev/null
CMD ["make", "artifact"]
