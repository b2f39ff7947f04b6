package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// serverProgram is a program that runs until stop.
type serverProgram struct{ cmd *exec.Cmd }

func launch(ctx context.Context, dir, program string, args ...string) (serverProgram, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	return serverProgram{cmd}, cmd.Start()
}

func (p serverProgram) pid() int { return p.cmd.Process.Pid }

func (p serverProgram) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// start runs the daemon with these listeners and nothing else.
func start(ctx context.Context, daemon, consul string, listeners ...string) (serverProgram, error) {
	daemon, err := filepath.Abs(daemon)
	if err != nil {
		return serverProgram{}, err
	}
	return launch(ctx, "", daemon, append([]string{"run", "--log-level", "error", "--drain-timeout", "0", "--consul-addr", consul}, listeners...)...)
}

// registry is a running Consul agent or etcd, spoken to by plain HTTP.
type registry struct {
	serverProgram
	address string
}

func startConsul(ctx context.Context, dir string) (*registry, error) {
	p, err := launch(ctx, dir, "consul", "agent", "-dev", "-log-level=error", "-bind=127.0.0.1", "-data-dir="+dir+"/consul",
		"-http-port=31500", "-dns-port=-1", "-server-port=31501", "-serf-lan-port=31502", "-serf-wan-port=31503",
		"-grpc-port=-1", "-grpc-tls-port=-1", "-hcl=disable_update_check = true")
	if err != nil {
		return nil, err
	}
	r := &registry{p, "127.0.0.1:31500"}
	err = r.await(ctx, "/v1/catalog/nodes")
	return r, err
}

func startEtcd(ctx context.Context, dir string) (*registry, error) {
	p, err := launch(ctx, dir, "etcd", "--data-dir="+dir+"/etcd", "--log-level=error",
		"--listen-client-urls=http://127.0.0.1:31510", "--advertise-client-urls=http://127.0.0.1:31510",
		"--listen-peer-urls=http://127.0.0.1:31511", "--initial-advertise-peer-urls=http://127.0.0.1:31511",
		"--initial-cluster=default=http://127.0.0.1:31511")
	if err != nil {
		return nil, err
	}
	r := &registry{p, "127.0.0.1:31510"}
	err = r.await(ctx, "/health")
	return r, err
}

func (r *registry) await(ctx context.Context, path string) error {
	for deadline := time.Now().Add(time.Minute); ; {
		body, err := r.send(ctx, http.MethodGet, path, nil)
		if err == nil && !bytes.Equal(bytes.TrimSpace(body), []byte("[]")) {
			return nil
		}
		if time.Now().After(deadline) {
			r.stop()
			return fmt.Errorf("not ready within a minute: %w", err)
		}
		if err := rest(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

var client = &http.Client{Timeout: 30 * time.Second}

func (r *registry) send(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+r.address+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, text)
	}
	return text, err
}

func (r *registry) sendJSON(ctx context.Context, method, path string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	_, err = r.send(ctx, method, path, body)
	return err
}

// register registers the one instance of a service with the Consul agent.
func (r *registry) register(ctx context.Context, name, address string) error {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return err
	}
	return r.sendJSON(ctx, http.MethodPut, "/v1/agent/service/register", map[string]any{"ID": name, "Name": name, "Address": host, "Port": port})
}

// catalog registers n instances of a service in one transaction of Consul's
// catalog, at 127.0.1.1 and up.
func (r *registry) catalog(ctx context.Context, name string, n, port int) error {
	var operations []any
	for i := range n {
		node, address := fmt.Sprintf("node%d", i), fmt.Sprintf("127.0.1.%d", i+1)
		operations = append(operations,
			map[string]any{"Node": map[string]any{"Verb": "set", "Node": map[string]any{"Node": node, "Address": address}}},
			map[string]any{"Service": map[string]any{"Verb": "set", "Node": node, "Service": map[string]any{
				"ID": fmt.Sprintf("%s-%d", name, i), "Service": name, "Address": address, "Port": port,
			}}},
			map[string]any{"Check": map[string]any{"Verb": "set", "Check": map[string]any{
				"Node": node, "CheckID": fmt.Sprintf("%s-%d", name, i), "ServiceID": fmt.Sprintf("%s-%d", name, i), "Status": "passing",
			}}})
	}
	return r.sendJSON(ctx, http.MethodPut, "/v1/txn", operations)
}

// put sets a key: of Consul, or of etcd by its JSON gateway.
func (r *registry) put(ctx context.Context, key, value string) error {
	if r.address == "127.0.0.1:31510" {
		encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
		return r.sendJSON(ctx, http.MethodPost, "/v3/kv/put", map[string]string{"key": encode(key), "value": encode(value)})
	}
	_, err := r.send(ctx, http.MethodPut, "/v1/kv/"+key, []byte(value))
	return err
}

// progressServer is a server that says where one has got to.
type progressServer struct {
	name, address string
	port          int
}

// listen opens two places, each at every loopback address with a port of its own, for
// as long as the program runs.
func listen(ctx context.Context) (places [2]progressServer, err error) {
	for i, name := range []string{"a", "b"} {
		if places[i], err = open(ctx, name, "0.0.0.0", 0); err != nil { // the whole of 127.0.0.0/8
			return places, err
		}
	}
	return places, nil
}

// listenAlike opens two places at different addresses with the same port, as what has
// only an address in DNS needs them.
func listenAlike(ctx context.Context) (places [2]progressServer, err error) {
	if places[0], err = open(ctx, "a", "127.0.77.1", 0); err != nil {
		return places, err
	}
	places[1], err = open(ctx, "b", "127.0.77.2", places[0].port)
	return places, err
}

func open(ctx context.Context, name, host string, port int) (progressServer, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return progressServer{}, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, name)
			_ = conn.Close()
		}
	}()
	return progressServer{name: name, address: listener.Addr().String(), port: listener.Addr().(*net.TCPAddr).Port}, nil
}

// until dials address until it gets to the place called name, and returns when.
func until(ctx context.Context, address, name string) (time.Time, error) {
	var dialer net.Dialer
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			var got []byte
			_ = conn.SetDeadline(time.Now().Add(time.Second)) // it may have got to a container that is being killed
			got, err = io.ReadAll(conn)
			_ = conn.Close()
			if err == nil && string(got) == name {
				return time.Now(), nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return time.Time{}, ctx.Err()
		case time.Now().After(deadline):
			return time.Time{}, fmt.Errorf("%s does not lead to %s within a minute: %w", address, name, err)
		case err != nil:
			if err := rest(ctx, time.Millisecond); err != nil {
				return time.Time{}, err
			}
		}
	}
}
