FROM alpine
LABEL connect.80
LABEL connect.80=a.example.com:1 connect.81
LABEL
