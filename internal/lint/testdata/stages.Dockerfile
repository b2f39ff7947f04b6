FROM alpine AS base
LABEL connect.80=a.example.com:x
FROM alpine AS tools
LABEL connect.81=a.example.com:y
FROM base AS final
LABEL connect.82=a.example.com:z
