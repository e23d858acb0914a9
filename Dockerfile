# Pinned to an exact tag, whose image is rebuilt from time to time.  A release is built from a digest (RELEASING.md):
#   docker buildx imagetools inspect python:3.13.9-slim-trixie
ARG PYTHON_IMAGE=python:3.13.9-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_INPUT=1
WORKDIR /src

# Two environments: one builds the wheel and stays in this stage; the other one, without pip, is copied to the image.
RUN python -m venv /build && python -m venv --without-pip /opt/noetl-events

# The pins change less often than the code, so their slow layer comes first.
COPY requirements/ requirements/
RUN /build/bin/pip install --require-hashes --no-deps -r requirements/build.txt \
 && /build/bin/pip --python /opt/noetl-events/bin/python install \
        --require-hashes --no-deps -r requirements/runtime.txt

COPY pyproject.toml README.md LICENSE ./
COPY noetl_events/ noetl_events/
COPY consumers/ consumers/
# The build context has no repository, so the version is an argument.  SOURCE_DATE_EPOCH is the time of the commit.
ARG VERSION=0.0.0
ARG SOURCE_DATE_EPOCH
RUN SETUPTOOLS_SCM_PRETEND_VERSION=${VERSION} \
    /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
 && /build/bin/pip --python /opt/noetl-events/bin/python install --no-deps --no-index /dist/*.whl


FROM ${PYTHON_IMAGE}
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="noetl-events" \
      org.opencontainers.image.description="Execution events into durable places, through NATS JetStream" \
      org.opencontainers.image.source="https://github.com/noetl/noetl-events" \
      org.opencontainers.image.documentation="https://github.com/noetl/noetl-events#readme" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /opt/noetl-events /opt/noetl-events
# The file system may be read-only, and a log line must be written before a crash.
ENV PATH=/opt/noetl-events/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# A numeric user, so that Kubernetes can check runAsNonRoot without reading /etc/passwd.
USER 10001:10001
WORKDIR /
STOPSIGNAL SIGTERM
ENTRYPOINT ["noetl-events"]
CMD ["--help"]
