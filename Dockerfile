# otel-aiops as an image: `docker build -t otel-aiops:0.1.0 .`
# What is installed are the files whose hashes are in requirements.lock; compilers and test tools stay in the first stage.
FROM python:3.11.14-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements.lock ./
RUN pip wheel --quiet --require-hashes --wheel-dir /wheels -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY otel_aiops ./otel_aiops
RUN pip install --quiet --no-index --find-links /wheels hatchling \
 && pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /own . \
 && python -m venv --without-pip /opt/otel-aiops \
 && pip --python /opt/otel-aiops/bin/python install --quiet --no-index --find-links /wheels "$(ls /own/*.whl)[postgres]"

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="otel-aiops" org.opencontainers.image.licenses="Apache-2.0"
# Directories that belong to the user, so that new volumes do too. The cache has machine code of the detection, made at
# the first start for the processor at hand: keep it on a volume, or every start takes a minute more.
RUN pip uninstall --yes --quiet pip setuptools wheel --root-user-action=ignore \
 && useradd --system --uid 10001 --user-group --home-dir /nonexistent --shell /usr/sbin/nologin otel-aiops \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/otel-aiops /var/cache/otel-aiops \
 && install -d -o 10001 -g 10001 -m 0750 /var/lib/otel-aiops-tokens
COPY --from=build /opt/otel-aiops /opt/otel-aiops
ENV PATH=/opt/otel-aiops/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/var/cache/otel-aiops \
    MPLCONFIGDIR=/var/cache/otel-aiops/matplotlib
USER 10001:10001
WORKDIR /var/lib/otel-aiops
VOLUME ["/var/lib/otel-aiops", "/var/cache/otel-aiops"]
EXPOSE 4317 4318 9464
ENTRYPOINT ["otel-aiops"]
CMD ["serve", "--data-dir", "/var/lib/otel-aiops"]
