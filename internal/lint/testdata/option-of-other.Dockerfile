FROM my/base
LABEL connect.80=a.example.com:1 connect.81.wait=5s
