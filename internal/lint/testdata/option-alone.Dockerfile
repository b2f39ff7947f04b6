FROM my/base
LABEL connect.80.wait=5s
FROM my/base
LABEL connect.wait=5s
