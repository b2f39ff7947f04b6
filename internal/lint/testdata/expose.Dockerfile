FROM alpine
ARG PORT=8080
EXPOSE 80/tcp 53/udp $PORT
LABEL connect.80=a.example.com:1 connect.53=a.example.com:1 connect.8080=a.example.com:1
