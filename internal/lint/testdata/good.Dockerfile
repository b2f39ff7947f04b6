FROM golang AS build
RUN go build ./...
FROM scratch
COPY --from=build /app /app
ENV CONNECT_TIMEOUT=5
LABEL connect.6379=redis.service.consul \
      connect.6379.wait=5s
LABEL org.opencontainers.image.title="connect to it"
