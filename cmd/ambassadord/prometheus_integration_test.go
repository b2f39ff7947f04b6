//go:build integration

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/ambassadord/ambassadord/internal/servertest"
)

// prometheusServer is a real Prometheus that scrapes a daemon by the configuration of deploy/prometheus.
type prometheusServer struct{ address string }

// ask asks its HTTP API, and decodes what it answers into data.
func (p prometheusServer) ask(ctx context.Context, path string, form url.Values, data any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+path+"?"+form.Encode(), nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, body)
	}
	if data == nil {
		return nil
	}
	return json.Unmarshal(body, &struct {
		Data any `json:"data"`
	}{data})
}

// instant is how many series an expression has now.
func (p prometheusServer) instant(t *testing.T, expr string) int {
	t.Helper()
	var data struct {
		Result []json.RawMessage `json:"result"`
	}
	if err := p.ask(t.Context(), "/api/v1/query", url.Values{"query": {expr}}, &data); err != nil {
		t.Errorf("%s: %v", expr, err)
	}
	return len(data.Result)
}

// startPrometheus starts one whose configuration is that of deploy/prometheus, with a scrape a second of address.
func startPrometheus(t *testing.T, address, token string) prometheusServer {
	t.Helper()
	const from = "../../deploy/prometheus"
	text, err := os.ReadFile(filepath.Join(from, "prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := filepath.Abs(filepath.Join(from, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	config := string(text)
	for before, after := range map[string]string{
		"192.0.2.1:9100": address, "/etc/prometheus/ambassadord.token": token, "- alerts.yml": "- " + rules,
		"scrape_interval: 15s": "scrape_interval: 1s", "evaluation_interval: 15s": "evaluation_interval: 1s",
	} {
		if !strings.Contains(config, before) {
			t.Fatalf("prometheus.yml has no %q", before)
		}
		config = strings.ReplaceAll(config, before, after)
	}
	var p prometheusServer
	server := servertest.New(t, "Prometheus", "prometheus", "PROMETHEUS_BIN", "prometheus")
	server.Ready = func(ctx context.Context) error { return p.ask(ctx, "/-/ready", nil, nil) }
	file := filepath.Join(server.Dir(), "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	server.Choose(t, 1, func(ports []string) []string {
		p.address = net.JoinHostPort("127.0.0.1", ports[0])
		return []string{"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(server.Dir(), "data"), "--web.listen-address=" + p.address, "--log.level=warn"}
	})
	return p
}

// deployed are the expressions of the alerts and of the dashboard, by where.
func deployed(t *testing.T) (alerts, panels map[string]string) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	alerts, panels = map[string]string{}, map[string]string{}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			alerts[rule.Alert] = rule.Expr
		}
	}
	text, err = os.ReadFile("../../deploy/grafana/ambassadord.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			panels[panel.Title+" "+target.RefID+": "+target.Expr] = target.Expr
		}
	}
	return alerts, panels
}

// TestPrometheus has a real Prometheus scrape a real daemon by the configuration that docs/metrics.md shows, while
// connections fail: the alert's expression says so, no other does but that of the target, and each panel of the
// dashboard asks what Prometheus can answer.
func TestPrometheus(t *testing.T) {
	h := newTestHost(t)
	h.endpoint = servertest.Nobody(t).String()
	token := filepath.Join(h.folder, "token")
	if err := os.WriteFile(token, []byte("0123456789abcdef0123\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", servertest.FreePorts(t, 1)[0])
	h.start(t, "--admin-listen", address, "--admin-token-file", token)
	p := startPrometheus(t, address, token)

	alerts, panels := deployed(t)
	deadline := time.Now().Add(time.Minute)
	for p.instant(t, alerts["AmbassadordConnectionsFail"]) == 0 || p.instant(t, alerts["AmbassadordClientCutOff"]) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("after a minute of failing connections no alert's expression says so")
		}
		var failing sync.WaitGroup
		for range 10 { // each is held for a while, longer than a scrape takes to come
			failing.Go(func() {
				conn, err := net.Dial("tcp", h.listen)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
					t.Errorf("a connection to nobody ends with %v; want a reset", err)
				}
			})
		}
		failing.Wait()
	}

	var targets struct {
		ActiveTargets []struct{ Health, LastError string }
	}
	if err := p.ask(t.Context(), "/api/v1/targets", nil, &targets); err != nil || len(targets.ActiveTargets) != 1 ||
		targets.ActiveTargets[0].Health != "up" || targets.ActiveTargets[0].LastError != "" {
		t.Errorf("targets: %+v, %v; want one that is up", targets, err)
	}
	for alert, expr := range alerts {
		switch n := p.instant(t, expr); alert {
		case "AmbassadordConnectionsFail", "AmbassadordClientCutOff":
			if n != 1 {
				t.Errorf("%s has %d series", alert, n)
			}
		case "AmbassadordEndpointsOut": // the endpoint may be ejected by now
		default:
			if n != 0 {
				t.Errorf("%s has %d series, want none", alert, n)
			}
		}
	}
	var state struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := p.ask(t.Context(), "/api/v1/rules", nil, &state); err != nil || len(state.Groups) != 1 || len(state.Groups[0].Rules) != len(alerts) {
		t.Errorf("rules: %+v, %v; want %d", state, err, len(alerts))
	}
	for _, group := range state.Groups {
		for _, rule := range group.Rules {
			if rule.Health == "err" || rule.LastError != "" {
				t.Errorf("%s: %s", rule.Name, rule.LastError)
			}
		}
	}

	// What Grafana puts in for its variables where all are chosen.
	variable := regexp.MustCompile(`\$[a-z]+`)
	empty := 0
	now := time.Now()
	for panel, expr := range panels {
		expr = variable.ReplaceAllString(strings.ReplaceAll(expr, "$__rate_interval", "1m"), ".*")
		var data struct{ Result []json.RawMessage }
		form := url.Values{"query": {expr}, "start": {fmt.Sprint(now.Add(-time.Minute).Unix())}, "end": {fmt.Sprint(now.Unix())}, "step": {"5"}}
		if err := p.ask(t.Context(), "/api/v1/query_range", form, &data); err != nil {
			t.Errorf("panel %s: %v", panel, err)
		}
		if len(data.Result) == 0 {
			empty++
			t.Logf("nothing to show yet: %s", panel)
		}
	}
	if len(panels) < 30 || empty > len(panels)/3 {
		t.Errorf("%d of %d queries of panels have no series", empty, len(panels))
	}
}
