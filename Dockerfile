# The daemon's image: the static binary, built outside (make build), and
# iptables. `make image` makes it, on a base of its own where no registry can be
# reached; `make image BASE=scratch` makes one of the binary alone, whose rules are
# set by netlink. No BuildKit syntax: the classic builder makes it too.
ARG BASE=debian:stable-slim
ARG VERSION=

FROM scratch AS bare

ARG VERSION
LABEL org.opencontainers.image.title="ambassadord" \
      org.opencontainers.image.description="A container dials localhost and reaches the service it asked for, wherever it runs" \
      org.opencontainers.image.source="https://github.com/ambassadord/ambassadord" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"

COPY bin/ambassadord /bin/ambassadord

EXPOSE 10000
ENTRYPOINT ["/bin/ambassadord"]

FROM ${BASE}

RUN command -v iptables >/dev/null || { \
      apt-get update \
      && apt-get install -y --no-install-recommends iptables \
      && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb; }

ARG VERSION
LABEL org.opencontainers.image.title="ambassadord" \
      org.opencontainers.image.description="A container dials localhost and reaches the service it asked for, wherever it runs" \
      org.opencontainers.image.source="https://github.com/ambassadord/ambassadord" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"

COPY bin/ambassadord /bin/ambassadord

EXPOSE 10000
ENTRYPOINT ["/bin/ambassadord"]
