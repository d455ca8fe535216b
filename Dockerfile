# syntax=docker/dockerfile:1
# sefe-plugin with LLaMA-Factory, for NVIDIA GPUs. Its command is llamafactory-cli; docs/engines.md says how to use it.
#   docker build -t sefe-plugin .
#   docker run --gpus all -v sefe-cache:/cache -v "$PWD":/work sefe-plugin train recipes/minicoin_sefe.yaml
# The wheels of PyTorch bring CUDA's libraries; the base must fit the version that they are made for.
FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04

# gcc and Python's headers: Triton compiles a small launcher when it first runs a kernel
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/sefe

ENV PATH=/opt/sefe/bin:$PATH

WORKDIR /src
COPY pyproject.toml setup.cfg setup.py MANIFEST.in CHANGELOG.md LICENSE README.md ./
COPY sefe_plugin sefe_plugin
COPY recipes recipes
COPY data_templates data_templates
COPY docs docs
# setup.cfg says which versions; DL3013 would have them here
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[qlora,deepspeed]" && rm -rf /src/*

# Ubuntu's own user has the number 1000. Open folders and a name in USER serve `docker run --user` with another number.
RUN mkdir -p /cache /work && chmod 1777 /cache /work
ENV HOME=/cache HF_HOME=/cache/huggingface TRITON_CACHE_DIR=/cache/triton USER=sefe
VOLUME /cache
WORKDIR /work
USER 1000:1000

ENTRYPOINT ["llamafactory-cli"]
CMD ["help"]
