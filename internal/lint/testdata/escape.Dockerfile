# syntax=docker/dockerfile:1
# escape=`
FROM alpine
LABEL connect.80=a.example.com:1 `
      connect.81=a.example.com:x
