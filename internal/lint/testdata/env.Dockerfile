FROM alpine
ENV CONECT_80=a.example.com:1 CONNECT_81="a.example.com:x"
ENV BACKEND_82 a.example.com:y
ENV connect.83=a.example.com:1
