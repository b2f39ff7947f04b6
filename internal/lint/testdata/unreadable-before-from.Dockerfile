LABEL connect.1=a:1
FROM alpine
