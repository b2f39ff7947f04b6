FROM alpine
LABEL connect.80=a.example.com:1
LABEL connect.80=b.example.com:1
ENV CONNECT_80=a.example.com:1
