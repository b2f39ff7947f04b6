FROM alpine
LABEL connect.80=a.example.com:1 \
      # of the web
      connect.81=a.example.com:x \

      connect.82=a.exam\
ple.com:y
RUN echo \\
LABEL connect.83=a.example.com:z
