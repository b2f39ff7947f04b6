FROM alpine
RUN <<EOF cat >/a
LABEL connect.1=dcker://x:1
EOF
COPY <<-"END" <<OTHER /b/
	LABEL connect.2=dcker://x:1
	END
LABEL connect.3=dcker://x:1
OTHER
RUN echo "a <<b" $((1<<2))
LABEL connect.4=dcker://x:1
