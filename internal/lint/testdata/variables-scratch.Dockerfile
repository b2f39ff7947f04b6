FROM scratch
LABEL connect.1=$NOWHERE connect.2=a.example.com:${PORT-80}
