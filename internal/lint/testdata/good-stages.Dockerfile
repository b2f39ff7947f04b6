FROM alpine AS base
LABEL connect.80=a.example.com:x
FROM Base
LABEL connect.80=a.example.com:1
