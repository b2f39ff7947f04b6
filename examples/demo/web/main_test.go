package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
)

// A client that keeps calling sees answers, and then a refused connection,
// which a proxy answers with the next endpoint. Anything else would be a
// request lost.
func TestStopLosesNoConnection(t *testing.T) {
	for range 20 {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- serve(ctx, listener, "web-1") }()

		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		for n := 0; ; n++ {
			if n == 20 {
				cancel()
			}
			body, err := get(client, "http://"+listener.Addr().String())
			if errors.Is(err, syscall.ECONNREFUSED) && n > 20 {
				break
			}
			if err != nil {
				t.Fatalf("request %d: %v", n, err)
			}
			if body != "hello from web-1\n" {
				t.Fatalf("request %d was answered %q", n, body)
			}
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
}

// With nobody calling, the server still ends.
func TestStopIdle(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := serve(ctx, listener, "web-1"); err != nil {
		t.Errorf("serve: %v", err)
	}
}

func get(client *http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}
