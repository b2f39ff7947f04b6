package main

import "testing"

func TestParseWrk(t *testing.T) {
	// wrk leaves a space after some of its figures.
	text := "Running 1s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  Latency Distribution\n" +
		"     50%  646.85us\n     75%  913.43us\n     90%    1.14s \n     99%    1.16s \n" +
		"  46 requests in 1.48s, 6.96KB read\n  Socket errors: connect 0, read 3, write 0, timeout 2\n" +
		"  Non-2xx or 3xx responses: 4\nRequests/sec:     31.18\nTransfer/sec:      4.72KB\n"
	s, requests, err := parseWrk(text)
	if err != nil {
		t.Fatal(err)
	}
	if requests != 46 || s.Rate != 31.18 || s.P50 < 646e-6 || s.P50 > 647e-6 || s.P99 != 1.16 || s.Failed != 9 {
		t.Errorf("got %d requests, %+v", requests, s)
	}
	for _, bad := range []string{"", "0 requests in 1s\nRequests/sec: 0", "5 requests in 1s"} {
		if _, _, err := parseWrk(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestWords(t *testing.T) {
	if got, err := words("a,b", []string{"b", "a"}); err != nil || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := words("a,c", []string{"b", "a"}); err == nil {
		t.Error("c was taken")
	}
}
