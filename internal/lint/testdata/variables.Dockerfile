ARG TAG=3
FROM alpine:$TAG
ARG TAG
ARG WEB=a.example.com:x
ARG NOTHING
ENV REDIS=b.example.com:y EMPTY=""
LABEL connect.1=$WEB connect.2=${REDIS} connect.3=${EMPTY:-c.example.com:z} connect.4=$NOTHING connect.5=$PATH connect.6='$WEB' connect.7=\$WEB connect.8=${WEB%x} connect.9=${REDIS:+d.example.com:w} connect.10=a.example.com:$TAG
