# gcnrec in a container, without root. From a checkout:
#
#   docker build -t gcnrec .
#   docker run --rm -v "$PWD:/work" gcnrec run job.toml --out runs/shop
#
# For GPUs, on a machine with NVIDIA's container toolkit:
#
#   docker build -t gcnrec:cuda --build-arg EXTRAS='[gpu]' .
#   docker run --rm --gpus all --ulimit memlock=-1 -v "$PWD:/work" gcnrec:cuda run job.toml --out runs/shop
#
# TORCH_INDEX: the address of PyTorch's packages for the CPU alone, as its installation page names it. Without it, torch brings
# CUDA's libraries, which a CPU does not need. docs/containers.md says more.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=""
ARG TORCH_INDEX=""
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gcnrec gcnrec
COPY loaders loaders
COPY cuda cuda
RUN python -m venv /opt/gcnrec \
    && if [ -n "$TORCH_INDEX" ]; then \
        /opt/gcnrec/bin/pip install --no-cache-dir --no-deps --constraint constraints.txt --index-url "$TORCH_INDEX" torch; \
    fi \
    && /opt/gcnrec/bin/pip install --no-cache-dir --constraint constraints.txt ".$EXTRAS"

FROM python:${PYTHON}-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home gcnrec && mkdir /work && chown gcnrec /work
COPY --from=build /opt/gcnrec /opt/gcnrec
ENV PATH=/opt/gcnrec/bin:$PATH
USER gcnrec
WORKDIR /work
ENTRYPOINT ["gcnrec"]
CMD ["--help"]
