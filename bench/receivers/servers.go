package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
)

const get = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

// login is the first packet of a client of MySQL, of a user that there is not: MariaDB reads the
// header when it reads this, after its greeting (protocol 4.1, HandshakeResponse41).
const login = "\x2c\x00\x00\x01" + "\x01\x82\x00\x00" + "\x00\x00\x00\x01" + "\x21" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "stranger\x00" + "\x00" + "\x00\x00"

// receivers are those that are tried, in the order of the table.
var receivers = []receiver{
	{
		name: "nginx (http)", program: "nginx", version: []string{"-v"}, say: get, answer: "HTTP/1.1",
		prepare: func(dir string, port uint16) ([]string, error) {
			path, err := file(dir, "conf", "daemon off; pid %[1]s/pid; error_log stderr;\nevents {}\n"+
				"http { access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;\n"+
				"server { listen 127.0.0.1:%[2]d proxy_protocol; location / { return 200 ok; } } }\n", dir, port)
			return []string{"nginx", "-e", "stderr", "-c", path}, err
		},
	},
	{
		name: "nginx (stream)", program: "nginx", version: []string{"-v"}, answer: "200 ok",
		prepare: func(dir string, port uint16) ([]string, error) {
			const module = "/usr/lib/nginx/modules/ngx_stream_module.so"
			path, err := file(dir, "conf", "daemon off; pid %[1]s/pid; error_log stderr;\nload_module %[3]s;\nevents {}\n"+
				"stream { server { listen 127.0.0.1:%[2]d proxy_protocol; return \"200 ok\"; } }\n", dir, port, module)
			return []string{"nginx", "-e", "stderr", "-c", path}, err
		},
	},
	{
		name: "MariaDB", program: "mariadbd", version: []string{"--version"}, say: login, answer: "Access denied",
		prepare: func(dir string, port uint16) ([]string, error) {
			data := filepath.Join(dir, "data")
			out, err := exec.Command("mariadb-install-db", "--no-defaults", "--datadir="+data, "--user=root", "--skip-test-db").CombinedOutput()
			if err != nil {
				return nil, fmt.Errorf("%w: %s", err, out)
			}
			return []string{
				"mariadbd", "--no-defaults", "--user=root", "--datadir=" + data, "--socket=" + filepath.Join(dir, "socket"),
				"--bind-address=127.0.0.1", fmt.Sprintf("--port=%d", port), "--proxy-protocol-networks=*", "--max-connect-errors=100000",
			}, nil
		},
	},
	{
		name: "HAProxy", program: "haproxy", version: []string{"-v"}, say: get, answer: "HTTP/1.1",
		prepare: func(dir string, port uint16) ([]string, error) {
			path, err := file(dir, "conf", "defaults\n mode http\n timeout client 5s\n timeout connect 5s\n timeout server 5s\n"+
				"frontend f\n bind 127.0.0.1:%d accept-proxy\n http-request return status 200\n", port)
			return []string{"haproxy", "-db", "-f", path}, err
		},
	},
	{
		name: "Varnish", program: "varnishd", version: []string{"-V"}, say: get, answer: "HTTP/1.1",
		prepare: func(dir string, port uint16) ([]string, error) {
			path, err := file(dir, "vcl", "vcl 4.0; backend default none; sub vcl_recv { return (synth(200)); }\n")
			return []string{"varnishd", "-F", "-j", "none", "-n", filepath.Join(dir, "work"), "-f", path, "-a", fmt.Sprintf("127.0.0.1:%d,PROXY", port)}, err
		},
	},
	{
		name: "Apache httpd (mod_remoteip)", program: "apache2", version: []string{"-v"}, say: get, answer: "HTTP/1.1",
		prepare: func(dir string, port uint16) ([]string, error) {
			const modules = "/usr/lib/apache2/modules"
			path, err := file(dir, "conf", "ServerName localhost\nPidFile %[1]s/pid\nDefaultRuntimeDir %[1]s\nErrorLog /dev/stderr\nListen 127.0.0.1:%[2]d\n"+
				"LoadModule mpm_event_module %[3]s/mod_mpm_event.so\nLoadModule authz_core_module %[3]s/mod_authz_core.so\n"+
				"LoadModule remoteip_module %[3]s/mod_remoteip.so\nDocumentRoot %[1]s\nRemoteIPProxyProtocol On\n", dir, port, modules)
			return []string{"apache2", "-X", "-f", path}, err
		},
	},
	{
		name: "Dovecot", program: "dovecot", version: []string{"--version"}, answer: "* OK",
		prepare: func(dir string, port uint16) ([]string, error) {
			path, err := file(dir, "conf", "base_dir = %[1]s/run\nlog_path = /dev/stderr\nprotocols = imap\nssl = no\ndefault_internal_user = dovecot\n"+
				"default_login_user = dovenull\nhaproxy_trusted_networks = 127.0.0.0/8\nmail_location = maildir:%[1]s\npassdb {\n driver = static\n args = nopassword=y\n}\n"+
				"userdb {\n driver = static\n args = uid=65534 gid=65534 home=%[1]s\n}\n"+
				"service imap-login {\n inet_listener imap {\n address = 127.0.0.1\n port = %[2]d\n haproxy = yes\n }\n inet_listener imaps {\n port = 0\n }\n}\n", dir, port)
			return []string{"dovecot", "-F", "-c", path}, err
		},
	},
}
