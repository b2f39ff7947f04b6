package metrics

import (
	"fmt"
	"strings"
)

// jobOfScrape is what a Prometheus calls the daemons that it scrapes: deploy/prometheus/prometheus.yml says so.
const jobOfScrape = "ambassadord"

// alertRule is an alert for a fleet of daemons: deploy/prometheus/alerts.yml and the table of docs/metrics.md
// are made of them, and deploy/prometheus/alerts_test.yml of their trials, for promtool.
type alertRule struct {
	name     string
	severity string // critical: containers are not served; warning: some are not, or soon; info: in the morning
	expr     string
	hold     string // for how long expr is to be true
	labels   []string
	summary  string // what, in a line
	meaning  string // what it means for containers
	action   string // what to do
	fires    []alertTrial
	quiet    []alertTrial
}

// alertTrial is what a Prometheus has scraped once a minute, and asks 30 minutes later.
type alertTrial struct {
	of     string
	series []string // METRIC VALUES, to which instance and job are added
	labels []string // values of the alert's labels, if it is to fire
}

// notOurs are the reasons of connections that had been served: what their client, their endpoint, an option or a
// stop of the daemon has ended.
const notOurs = "client_gone|endpoint_gone|idle_timeout|half_closed_timeout|lifetime_over|endpoint_removed|endpoint_unhealthy|failed_back|daemon_gone|drain_timeout"

// noEndpoint are the reasons for which a client gets no endpoint of its target.
const noEndpoint = "resolve_failed|no_endpoints|dial_failed|over_limit|loop"

// alertRules are few: each means that somebody should do something.
var alertRules = []alertRule{
	{
		name: "AmbassadordDown", severity: "critical", hold: "2m",
		expr:    `up{job="` + jobOfScrape + `"} == 0`,
		summary: "ambassadord on {{ $labels.instance }} does not answer a scrape",
		meaning: "Containers of that host reach nothing through it, unless only the way to its metrics is broken.",
		action:  "On the host: systemctl status ambassadord, then ambassadord doctor. If the daemon runs, look at the error of the scrape on the page /targets of Prometheus: a token, a certificate or an address.",
		fires:   []alertTrial{{of: "a daemon that has been killed", series: []string{"up 1x20 0x20"}}},
		quiet: []alertTrial{
			{of: "a daemon that was started again", series: []string{"up 1x29 0 1x10"}},
			{of: "another job that is down", series: []string{`up{job="node"} 0x40`}},
		},
	},
	{
		name: "AmbassadordRestarts", severity: "warning", hold: "0m",
		expr:    `changes(process_start_time_seconds{job="` + jobOfScrape + `"}[30m]) > 3`,
		summary: "ambassadord on {{ $labels.instance }} has been started {{ $value }} times in half an hour",
		meaning: "Each start without --takeover is a gap in which connections fail.",
		action:  "Read the end of its log before each start (journalctl -u ambassadord), and whether the kernel has killed it (journalctl -k).",
		fires:   []alertTrial{{of: "a daemon that ends every few minutes", series: []string{"process_start_time_seconds 100x3 200x3 300x3 400x3 500x3 600x3 700x20"}}},
		quiet:   []alertTrial{{of: "an upgrade, and another", series: []string{"process_start_time_seconds 100x10 200x10 300x30"}}},
	},
	{
		name: "AmbassadordNotReady", severity: "critical", hold: "5m",
		expr:    `ambassadord_ready == 0`,
		summary: "ambassadord on {{ $labels.instance }} is not ready",
		meaning: "It runs and does not serve all containers of its host: it starts, or waits for something.",
		action:  "Ask /readyz of its admin interface, which names what is not ready; ambassadord status says the same.",
		fires:   []alertTrial{{of: "a daemon that waits", series: []string{"ambassadord_ready 0x40"}}},
		quiet:   []alertTrial{{of: "a daemon that starts", series: []string{"ambassadord_ready 1x27 0x2 1x10"}}},
	},
	{
		name: "AmbassadordEngineAway", severity: "critical", hold: "2m",
		expr:    `ambassadord_engine_up == 0`,
		summary: "ambassadord on {{ $labels.instance }} has lost its container engine",
		meaning: "Containers that are known are served as before, for as long as the option timeout allows; new ones are not known.",
		action:  "On the host: docker version, systemctl status docker. If the engine answers, ambassadord doctor says what keeps the daemon from it.",
		fires:   []alertTrial{{of: "an engine that is stopped", series: []string{"ambassadord_engine_up 1x20 0x20"}}},
		quiet:   []alertTrial{{of: "an engine that restarts", series: []string{"ambassadord_engine_up 1x29 0 1x20"}}},
	},
	{
		// Of N failures, N - 2√N are sure not to be chance, near enough (Poisson): up to four never fire, five of
		// five do, and of many it is their share that counts. A reason that another container can provoke at will
		// (denied, no_binding) fires only while it is a share of all connections of the host. What has not happened for 5
		// minutes is over, and holds for less than 6: a burst alone does not fire.
		name: "AmbassadordConnectionsFail", severity: "warning", hold: "6m", labels: []string{"reason"},
		expr: `sum by (instance, job, reason) (
  increase(ambassadord_connections_failed_total{reason!~"` + notOurs + `"}[10m])
  - 2 * sqrt(increase(ambassadord_connections_failed_total{reason!~"` + notOurs + `"}[10m]))
) / on (instance, job) group_left sum by (instance, job) (increase(ambassadord_connections_opened_total[10m]))
> 0.05
and sum by (instance, job, reason) (increase(ambassadord_connections_failed_total[5m])) > 0`,
		summary: "More than 5% of the connections on {{ $labels.instance }} fail: {{ $labels.reason }}",
		meaning: "In the last 10 minutes surely {{ $value | humanizePercentage }} of all connections were reset before an endpoint served them.",
		action:  "The log has a line for each, with error and hint; docs/reference.md has the reason. Which client and target: topk(5, sum by (client, target) (rate(ambassadord_client_connections_failed_total[10m]))).",
		fires: []alertTrial{
			{of: "a tenth of many", labels: []string{"no_endpoints"}, series: []string{
				`ambassadord_connections_failed_total{reason="no_endpoints"} 0+10x40`, "ambassadord_connections_opened_total 0+100x40"}},
			{of: "all of few", labels: []string{"dial_failed"}, series: []string{
				`ambassadord_connections_failed_total{reason="dial_failed"} 0+1x40`, "ambassadord_connections_opened_total 0+1x40"}},
		},
		quiet: []alertTrial{
			{of: "one in a hundred of many", series: []string{
				`ambassadord_connections_failed_total{reason="no_endpoints"} 0+10x40`, "ambassadord_connections_opened_total 0+1000x40"}},
			{of: "a burst", series: []string{
				`ambassadord_connections_failed_total{reason="dial_failed"} 0x26 50x20`, "ambassadord_connections_opened_total 0x26 50x20"}},
			{of: "three of three", series: []string{
				`ambassadord_connections_failed_total{reason="dial_failed"} 0x24 1 2 3x20`, "ambassadord_connections_opened_total 0x24 1 2 3x20"}},
			{of: "clients that go", series: []string{
				`ambassadord_connections_failed_total{reason="client_gone"} 0+100x40`, "ambassadord_connections_opened_total 0+100x40"}},
			{of: "no connection at all", series: []string{
				`ambassadord_connections_failed_total{reason="no_endpoints"} 0x40`, "ambassadord_connections_opened_total 0x40"}},
		},
	},
	{
		name: "AmbassadordClientCutOff", severity: "warning", hold: "6m", labels: []string{"client", "project", "service", "target"},
		expr: `sum by (instance, job, client, project, service, target) (
  increase(ambassadord_client_connections_failed_total{reason=~"` + noEndpoint + `"}[10m])
) > 4
unless sum by (instance, job, client, project, service, target) (
  increase(ambassadord_client_connection_establish_seconds_count[10m])
) > 0
and sum by (instance, job, client, project, service, target) (
  increase(ambassadord_client_connections_failed_total{reason=~"` + noEndpoint + `"}[5m])
) > 0`,
		summary: "{{ $labels.client }} on {{ $labels.instance }} gets no endpoint of {{ $labels.target }}",
		meaning: "Each of its {{ $value | humanize }} connections of the last 10 minutes was reset; those of others may be well.",
		action:  "On the host: ambassadord resolve with the target, ambassadord status, and the lines of that client in the log, whose error and hint say why.",
		fires: []alertTrial{{of: "a client whose target has none", labels: []string{"app", "shop", "web", "redis:6379"}, series: []string{
			`ambassadord_client_connections_failed_total{client="app",project="shop",service="web",target="redis:6379",reason="no_endpoints"} 0+1x40`,
			`ambassadord_client_connection_establish_seconds_count{client="app",project="shop",service="web",target="redis:6379"} 7x40`,
			`ambassadord_client_connection_establish_seconds_count{client="other",project="shop",service="web",target="redis:6379"} 0+9x40`}}},
		quiet: []alertTrial{
			{of: "a client of whose connections one in two is served", series: []string{
				`ambassadord_client_connections_failed_total{client="app",project="shop",service="web",target="redis:6379",reason="no_endpoints"} 0+1x40`,
				`ambassadord_client_connection_establish_seconds_count{client="app",project="shop",service="web",target="redis:6379"} 0+1x40`}},
			{of: "a burst", series: []string{
				`ambassadord_client_connections_failed_total{client="app",project="shop",service="web",target="redis:6379",reason="no_endpoints"} 0x26 50x20`}},
		},
	},
	{
		name: "AmbassadordTargetWithoutEndpoint", severity: "warning", hold: "5m", labels: []string{"target"},
		expr:    `ambassadord_target_failing == 1`,
		summary: "{{ $labels.target }} has no endpoint on {{ $labels.instance }}",
		meaning: "Its source names none, or fails and has never answered: connections to it are reset.",
		action:  "On the host: ambassadord resolve with the target says what the source answers. If nobody is to serve it, remove the declaration.",
		fires:   []alertTrial{{of: "a target that nobody serves", labels: []string{"redis:6379"}, series: []string{`ambassadord_target_failing{target="redis:6379"} 0x10 1x40`}}},
		quiet:   []alertTrial{{of: "a backend that restarts", series: []string{`ambassadord_target_failing{target="redis:6379"} 0x26 1x3 0x20`}}},
	},
	{
		name: "AmbassadordEndpointsOut", severity: "warning", hold: "5m", labels: []string{"target"},
		expr: `ambassadord_target_endpoints_out / ambassadord_target_endpoints >= 0.5
or ambassadord_target_panic == 1`,
		summary: "{{ $labels.target }} has half of its endpoints out on {{ $labels.instance }}, or more",
		meaning: "They are ejected after failures, or down by their checks; the rest carries all connections. With ambassadord_target_panic at 1 so many are out that none counts as out.",
		action:  "On the host: ambassadord status says of each endpoint why it is out. If all hosts say so, look at the endpoints; if one does, at its network.",
		fires: []alertTrial{
			{of: "one of two", labels: []string{"redis:6379"}, series: []string{`ambassadord_target_endpoints_out{target="redis:6379"} 1x40`, `ambassadord_target_endpoints{target="redis:6379"} 2x40`}},
			{of: "panic", labels: []string{"redis:6379"}, series: []string{
				`ambassadord_target_endpoints_out{target="redis:6379"} 0x40`, `ambassadord_target_endpoints{target="redis:6379"} 4x40`, `ambassadord_target_panic{target="redis:6379"} 1x40`}},
		},
		quiet: []alertTrial{
			{of: "one of four", series: []string{
				`ambassadord_target_endpoints_out{target="redis:6379"} 1x40`, `ambassadord_target_endpoints{target="redis:6379"} 4x40`, `ambassadord_target_panic{target="redis:6379"} 0x40`}},
			{of: "a target without any", series: []string{`ambassadord_target_endpoints_out{target="redis:6379"} 0x40`, `ambassadord_target_endpoints{target="redis:6379"} 0x40`}},
			{of: "an ejection that ends", series: []string{`ambassadord_target_endpoints_out{target="redis:6379"} 0x27 1x2 0x20`, `ambassadord_target_endpoints{target="redis:6379"} 2x40`}},
		},
	},
	{
		name: "AmbassadordSourceFails", severity: "warning", hold: "0m", labels: []string{"source"},
		expr:    `ambassadord_source_failing_seconds > 600`,
		summary: "A {{ $labels.source }} source fails on {{ $labels.instance }} since {{ $value | humanizeDuration }}",
		meaning: "What it said before counts still, up to --max-stale, and gets older: changes are not seen.",
		action:  "On the host: ambassadord status names the targets and the errors; ambassadord doctor asks the registries.",
		fires:   []alertTrial{{of: "a registry that is away", labels: []string{"consul-service"}, series: []string{`ambassadord_source_failing_seconds{source="consul-service"} 0x10 0+60x40`}}},
		quiet:   []alertTrial{{of: "a registry whose leader changes", series: []string{`ambassadord_source_failing_seconds{source="consul-service"} 0x26 0 60 120 0x20`}}},
	},
	{
		name: "AmbassadordLimitNearlyFull", severity: "warning", hold: "5m", labels: []string{"limit"},
		expr:    `ambassadord_limit_open / (ambassadord_limit_most > 0) > 0.9`,
		summary: "{{ $labels.limit }} on {{ $labels.instance }} has {{ $value | humanizePercentage }} of its places taken",
		meaning: "What comes when all are taken waits, and is then reset as over_limit.",
		action:  "ambassadord connections lists who has them. More: --max-connections and the limit of open files (LimitNOFILE) for the daemon, the options client-limit and target-limit for one of them.",
		fires:   []alertTrial{{of: "91 of 100", labels: []string{"the daemon"}, series: []string{`ambassadord_limit_open{limit="the daemon"} 91x40`, `ambassadord_limit_most{limit="the daemon"} 100x40`}}},
		quiet: []alertTrial{
			{of: "half", series: []string{`ambassadord_limit_open{limit="the daemon"} 50x40`, `ambassadord_limit_most{limit="the daemon"} 100x40`}},
			{of: "no limit", series: []string{`ambassadord_limit_open{limit="the daemon"} 50x40`, `ambassadord_limit_most{limit="the daemon"} 0x40`}},
		},
	},
	{
		name: "AmbassadordConnectionsWait", severity: "warning", hold: "2m", labels: []string{"limit"},
		expr:    `min_over_time(ambassadord_limit_waiting[5m]) > 0`,
		summary: "Connections wait for a place of {{ $labels.limit }} on {{ $labels.instance }}",
		meaning: "At each scrape of the last minutes some did: they are served late, or reset as over_limit.",
		action:  "As for AmbassadordLimitNearlyFull. If a client keeps idle connections, --reclaim-idle makes room.",
		fires:   []alertTrial{{of: "a queue", labels: []string{"client app"}, series: []string{`ambassadord_limit_waiting{limit="client app"} 3x40`}}},
		quiet:   []alertTrial{{of: "a burst now and then", series: []string{`ambassadord_limit_waiting{limit="client app"} 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0 9 0`}}},
	},
	{
		name: "AmbassadordDeclarationsNotServed", severity: "info", hold: "15m",
		expr:    `ambassadord_bindings_quarantined + ambassadord_declaration_mistakes > 0`,
		summary: "{{ $value }} declarations of containers on {{ $labels.instance }} are not served",
		meaning: "They have a mistake, or another container has the port: connections to those ports are reset.",
		action:  "On the host: ambassadord status names container, declaration and mistake; the log has said so, too.",
		fires:   []alertTrial{{of: "a label with a mistake", series: []string{"ambassadord_bindings_quarantined 0x40", "ambassadord_declaration_mistakes 1x40"}}},
		quiet: []alertTrial{
			{of: "none", series: []string{"ambassadord_bindings_quarantined 0x40", "ambassadord_declaration_mistakes 0x40"}},
			{of: "a container that another replaces", series: []string{"ambassadord_bindings_quarantined 0x27 1x2 0x20", "ambassadord_declaration_mistakes 0x40"}},
		},
	},
	{
		name: "AmbassadordReloadRefused", severity: "warning", hold: "5m",
		expr:    `ambassadord_config_last_reload_successful == 0`,
		summary: "ambassadord on {{ $labels.instance }} has refused its new configuration",
		meaning: "All stays as it was before the change; a restart would fail with it.",
		action:  "On the host: ambassadord check --config FILE says what is wrong, as the log does. Mend it and reload.",
		fires:   []alertTrial{{of: "a mistake", series: []string{"ambassadord_config_last_reload_successful 1x20 0x20"}}},
		quiet:   []alertTrial{{of: "a mistake that was mended at once", series: []string{"ambassadord_config_last_reload_successful 1x27 0x2 1x20"}}},
	},
	{
		name: "AmbassadordSeriesOverflow", severity: "info", hold: "15m",
		expr:    `increase(ambassadord_client_series_overflows_total[15m]) > 0`,
		summary: "ambassadord on {{ $labels.instance }} counts some clients as _other",
		meaning: "There are more pairs of client and target than --metrics-series, or one client has an eighth of them: sums of all connections are exact still.",
		action:  "Compare ambassadord_client_series with ambassadord_client_series_limit. If the pairs are honest, raise --metrics-series; if one container declares hundreds of targets, find out why.",
		fires:   []alertTrial{{of: "more than there is room for", series: []string{"ambassadord_client_series_overflows_total 0+5x40"}}},
		quiet:   []alertTrial{{of: "room for all", series: []string{"ambassadord_client_series_overflows_total 5x40"}}},
	},
}

// alertsFile is deploy/prometheus/alerts.yml.
func alertsFile() string {
	var out strings.Builder
	out.WriteString(`# Alerts for a fleet of ambassadord, made by go test ./internal/metrics -update.
# Name the job of your scrape ambassadord, as prometheus.yml beside this does.
# docs/metrics.md has them as a table; alerts_test.yml says when each fires and when not:
# promtool test rules alerts_test.yml

groups:
  - name: ambassadord
    rules:
`)
	for _, a := range alertRules {
		fmt.Fprintf(&out, "      - alert: %s\n        expr: |-\n", a.name)
		for line := range strings.SplitSeq(a.expr, "\n") {
			fmt.Fprintf(&out, "          %s\n", line)
		}
		fmt.Fprintf(&out, "        for: %s\n        labels:\n          severity: %s\n        annotations:\n", a.hold, a.severity)
		fmt.Fprintf(&out, "          summary: %q\n          description: %q\n          action: %q\n", a.summary, a.meaning, a.action)
	}
	return out.String()
}

// trialsFile is deploy/prometheus/alerts_test.yml. It asks for ALERTS, which has the labels of an alert that fires.
func trialsFile() string {
	var out strings.Builder
	out.WriteString("# When each alert fires and when not, made by go test ./internal/metrics -update.\n\n" +
		"rule_files:\n  - alerts.yml\nevaluation_interval: 1m\n\ntests:\n")
	for _, a := range alertRules {
		for _, trial := range append(append([]alertTrial{}, a.fires...), a.quiet...) {
			trial.write(&out, &a)
		}
	}
	return out.String()
}

func (trial *alertTrial) write(out *strings.Builder, a *alertRule) {
	fmt.Fprintf(out, "  # %s: %s\n  - interval: 1m\n    input_series:\n", a.name, trial.of)
	for _, s := range trial.series {
		name, values, _ := strings.Cut(s, " ")
		if brace := strings.IndexByte(s, '{'); brace >= 0 { // label values may have spaces
			end := strings.LastIndexByte(s, '}')
			name, values = s[:end+1], s[end+2:]
		}
		fmt.Fprintf(out, "      - series: '%s'\n        values: '%s'\n", atHost(name), values)
	}
	fmt.Fprintf(out, "    promql_expr_test:\n      - expr: ALERTS{alertname=\"%s\", alertstate=\"firing\"}\n        eval_time: 30m\n", a.name)
	if !trial.expected(a) {
		out.WriteString("        exp_samples: []\n")
		return
	}
	labels := fmt.Sprintf(`ALERTS{alertname="%s", alertstate="firing", severity="%s"`, a.name, a.severity)
	for i, l := range a.labels {
		labels += fmt.Sprintf(", %s=%q", l, trial.labels[i])
	}
	fmt.Fprintf(out, "        exp_samples:\n          - labels: '%s'\n            value: 1\n", atHost(labels+"}"))
}

// expected says whether a is to fire.
func (trial *alertTrial) expected(a *alertRule) bool {
	for i := range a.fires {
		if a.fires[i].of == trial.of {
			return true
		}
	}
	return false
}

// atHost adds the labels that a scrape adds.
func atHost(series string) string {
	more := `instance="host-1:9100"`
	if !strings.Contains(series, `job="`) {
		more += `, job="` + jobOfScrape + `"`
	}
	if labels, ok := strings.CutSuffix(series, "}"); ok {
		return labels + ", " + more + "}"
	}
	return series + "{" + more + "}"
}
