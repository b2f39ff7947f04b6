FROM alpine
RUN <<EOF
LABEL connect.1=x
