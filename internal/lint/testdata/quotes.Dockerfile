FROM alpine
LABEL connect.80="a.example.com:1
LABEL "connect.81=a.example.com:1"
LABEL connect.82='a.example.com:1\' connect.83=$1$$x
