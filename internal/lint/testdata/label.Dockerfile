FROM alpine
LABEL conect.80=a.example.com:1
LABEL connect.81=dcker://x:1 connect.82="a.example.com:x"
LABEL "connect.83"='a.example.com:y'
label connect.84 a.example.com:z
