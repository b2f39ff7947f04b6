package metrics

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// panel is a panel of the dashboard.
type panel struct {
	title   string
	kind    string // of Grafana's own: timeseries, stat or table
	unit    string // Grafana's name
	width   int    // of 24
	about   string
	queries []query
}

// query is a line of a panel, or several.
type query struct{ expr, legend string }

// dashboardRow is panels under a heading.
type dashboardRow struct {
	title  string
	panels []panel
}

// The label matchers of the dashboard's variables. Metrics of a target have no labels of clients.
const (
	atInstance = `instance=~"$instance"`
	atTarget   = `instance=~"$instance", target=~"$target"`
	atClient   = `instance=~"$instance", project=~"$project", service=~"$service", client=~"$client", target=~"$target"`
)

var dashboardRows = []dashboardRow{
	{"Now", []panel{
		{"Daemons", "stat", "short", 4, "Daemons that a scrape has found ready.", []query{{`sum(ambassadord_ready{` + atInstance + `})`, ""}}},
		{"Engines away", "stat", "short", 4, "Daemons that do not hear from their engine.", []query{{`count(ambassadord_engine_up{` + atInstance + `} == 0) or vector(0)`, ""}}},
		{"Open connections", "stat", "short", 4, "Connections whose endpoint has answered and that have not ended.", []query{{`sum(ambassadord_connections_open{` + atInstance + `})`, ""}}},
		{"Targets without endpoint", "stat", "short", 4, "Targets to which a connection gets no endpoint.", []query{{`sum(ambassadord_target_failing{` + atTarget + `})`, ""}}},
		{"Not served", "stat", "short", 4, "Ports and declarations of containers that are not served, because of a mistake or because another has the port.", []query{{`sum(ambassadord_bindings_quarantined{` + atInstance + `} + ambassadord_declaration_mistakes{` + atInstance + `})`, ""}}},
		{"Versions", "stat", "short", 4, "Daemons of each version.", []query{{`count by (version) (ambassadord_build_info{` + atInstance + `})`, "{{version}}"}}},
	}},
	{"Traffic", []panel{
		{"New connections", "timeseries", "cps", 8, "Connections that were opened, by host.", []query{{`sum by (instance) (rate(ambassadord_connections_opened_total{` + atInstance + `}[$__rate_interval]))`, "{{instance}}"}}},
		{"Open connections", "timeseries", "short", 8, "By host.", []query{{`sum by (instance) (ambassadord_connections_open{` + atInstance + `})`, "{{instance}}"}}},
		{"Bytes", "timeseries", "Bps", 8, "Bytes each way, connections that go on included.", []query{
			{`sum(rate(ambassadord_sent_bytes_total{` + atInstance + `}[$__rate_interval]))`, "to endpoints"},
			{`sum(rate(ambassadord_received_bytes_total{` + atInstance + `}[$__rate_interval]))`, "to clients"},
		}},
		{"New connections of clients", "timeseries", "cps", 8, "The ten clients and targets with the most.", []query{{`topk(10, sum by (client, target) (rate(ambassadord_client_connections_opened_total{` + atClient + `}[$__rate_interval])))`, "{{client}} → {{target}}"}}},
		{"Open connections of clients", "timeseries", "short", 8, "The ten clients and targets with the most.", []query{{`topk(10, sum by (client, target) (ambassadord_client_connections_open{` + atClient + `}))`, "{{client}} → {{target}}"}}},
		{"Bytes of clients", "timeseries", "Bps", 8, "Both ways, of the ten clients and targets with the most.", []query{{`topk(10, sum by (client, target) (rate(ambassadord_client_sent_bytes_total{` + atClient + `}[$__rate_interval]) + rate(ambassadord_client_received_bytes_total{` + atClient + `}[$__rate_interval])))`, "{{client}} → {{target}}"}}},
		{"Lifetime", "timeseries", "s", 24, "How long connections lasted that have ended.", []query{
			{`histogram_quantile(0.5, sum by (le) (rate(ambassadord_connection_duration_seconds_bucket{` + atInstance + `}[$__rate_interval])))`, "half of them"},
			{`histogram_quantile(0.9, sum by (le) (rate(ambassadord_connection_duration_seconds_bucket{` + atInstance + `}[$__rate_interval])))`, "nine of ten"},
		}},
	}},
	{"Failures by reason", []panel{
		{"Failures", "timeseries", "cps", 8, "By the reason that the log gives.", []query{{`sum by (reason) (rate(ambassadord_connections_failed_total{` + atInstance + `}[$__rate_interval])) > 0`, "{{reason}}"}}},
		{"Share of connections that fail", "timeseries", "percentunit", 8, "By reason, of all that were opened.", []query{{`sum by (reason) (rate(ambassadord_connections_failed_total{` + atInstance + `}[$__rate_interval])) / on () group_left sum(rate(ambassadord_connections_opened_total{` + atInstance + `}[$__rate_interval])) > 0`, "{{reason}}"}}},
		{"Failures of clients", "timeseries", "cps", 8, "The ten clients, targets and reasons with the most.", []query{{`topk(10, sum by (client, target, reason) (rate(ambassadord_client_connections_failed_total{` + atClient + `}[$__rate_interval])) > 0)`, "{{client}} → {{target}}: {{reason}}"}}},
	}},
	{"Time to an endpoint", []panel{
		{"Until an endpoint answered", "timeseries", "s", 8, "From accept until an endpoint had answered.", []query{
			{`histogram_quantile(0.5, sum by (le) (rate(ambassadord_connection_establish_seconds_bucket{` + atInstance + `}[$__rate_interval])))`, "half of them"},
			{`histogram_quantile(0.9, sum by (le) (rate(ambassadord_connection_establish_seconds_bucket{` + atInstance + `}[$__rate_interval])))`, "nine of ten"},
			{`histogram_quantile(0.99, sum by (le) (rate(ambassadord_connection_establish_seconds_bucket{` + atInstance + `}[$__rate_interval])))`, "99 of 100"},
		}},
		{"Until it was given up", "timeseries", "s", 8, "From accept until a connection was given up for which no endpoint answered.", []query{
			{`histogram_quantile(0.5, sum by (le) (rate(ambassadord_connection_unanswered_seconds_bucket{` + atInstance + `}[$__rate_interval])))`, "half of them"},
			{`histogram_quantile(0.9, sum by (le) (rate(ambassadord_connection_unanswered_seconds_bucket{` + atInstance + `}[$__rate_interval])))`, "nine of ten"},
		}},
		{"Endpoints dialled for a connection", "timeseries", "short", 8, "More than 1 where some did not answer.", []query{{`sum by (instance) (rate(ambassadord_dials_total{` + atInstance + `}[$__rate_interval])) / sum by (instance) (rate(ambassadord_connections_opened_total{` + atInstance + `}[$__rate_interval]))`, "{{instance}}"}}},
		{"Mean of clients", "timeseries", "s", 12, "Until an endpoint had answered, of the ten clients and targets that wait the longest.", []query{{`topk(10, sum by (client, target) (rate(ambassadord_client_connection_establish_seconds_sum{` + atClient + `}[$__rate_interval])) / sum by (client, target) (rate(ambassadord_client_connection_establish_seconds_count{` + atClient + `}[$__rate_interval])))`, "{{client}} → {{target}}"}}},
		{"Endpoints dialled by clients", "timeseries", "short", 12, "For a connection, of the ten clients and targets that dial the most.", []query{{`topk(10, sum by (client, target) (rate(ambassadord_client_dials_total{` + atClient + `}[$__rate_interval])) / sum by (client, target) (rate(ambassadord_client_connections_opened_total{` + atClient + `}[$__rate_interval])))`, "{{client}} → {{target}}"}}},
	}},
	{"Targets and endpoints", []panel{
		{"Endpoints", "timeseries", "short", 8, "Endpoints of each target that are in use: the fewest that a host sees.", []query{{`min by (target) (ambassadord_target_endpoints{` + atTarget + `})`, "{{target}}"}}},
		{"Endpoints that are out", "timeseries", "short", 8, "Ejected, or down by their checks: the most that a host sees.", []query{{`max by (target) (ambassadord_target_endpoints_out{` + atTarget + `}) > 0`, "{{target}}"}}},
		{"Checks", "timeseries", "short", 8, "Endpoints by what their check says, of all hosts.", []query{{`sum by (verdict) (ambassadord_target_checks{` + atTarget + `})`, "{{verdict}}"}}},
		{"Targets without endpoint", "table", "short", 12, "To which a connection gets no endpoint: their sources fail, or name none.", []query{{`ambassadord_target_failing{` + atTarget + `} == 1`, ""}}},
		{"Clients of a target", "table", "short", 12, "Containers that declare it.", []query{{`sum by (target) (ambassadord_target_clients{` + atTarget + `})`, ""}}},
	}},
	{"Sources", []panel{
		{"Questions that are watched", "timeseries", "short", 8, "By kind of source.", []query{{`sum by (source) (ambassadord_source_watches{` + atInstance + `})`, "{{source}}"}}},
		{"Questions whose source fails", "timeseries", "short", 8, "What it said before counts still.", []query{{`sum by (source, instance) (ambassadord_source_failing{` + atInstance + `}) > 0`, "{{source}} at {{instance}}"}}},
		{"Longest failure", "timeseries", "s", 8, "For how long the one has failed that has failed longest.", []query{{`max by (source) (ambassadord_source_failing_seconds{` + atInstance + `})`, "{{source}}"}}},
	}},
	{"Limits", []panel{
		{"Places taken", "timeseries", "percentunit", 12, "Of each limit that there is.", []query{{`topk(10, ambassadord_limit_open{` + atInstance + `} / (ambassadord_limit_most{` + atInstance + `} > 0))`, "{{limit}} at {{instance}}"}}},
		{"Connections that wait", "timeseries", "short", 12, "For a place.", []query{{`ambassadord_limit_waiting{` + atInstance + `} > 0`, "{{limit}} at {{instance}}"}}},
	}},
	{"Process", []panel{
		{"Processors", "timeseries", "short", 6, "Seconds of processors used in a second.", []query{{`rate(process_cpu_seconds_total{job="` + jobOfScrape + `", ` + atInstance + `}[$__rate_interval])`, "{{instance}}"}}},
		{"Memory", "timeseries", "bytes", 6, "Resident.", []query{{`process_resident_memory_bytes{job="` + jobOfScrape + `", ` + atInstance + `}`, "{{instance}}"}}},
		{"Open files", "timeseries", "percentunit", 6, "Of those that the limit allows.", []query{{`process_open_fds{job="` + jobOfScrape + `", ` + atInstance + `} / process_max_fds{job="` + jobOfScrape + `", ` + atInstance + `}`, "{{instance}}"}}},
		{"Series of clients", "timeseries", "percentunit", 6, "Pairs of client and target that are told apart, of those that may be.", []query{{`ambassadord_client_series{` + atInstance + `} / ambassadord_client_series_limit{` + atInstance + `}`, "{{instance}}"}}},
		{"Goroutines", "timeseries", "short", 12, "", []query{{`go_goroutines{job="` + jobOfScrape + `", ` + atInstance + `}`, "{{instance}}"}}},
		{"A scrape", "timeseries", "s", 12, "How long it took to ask the parts of the daemon for it.", []query{{`ambassadord_snapshot_seconds{` + atInstance + `}`, "{{instance}}"}}},
	}},
}

// dashboardVariables are what a user chooses by: each is a label, and where its values come from.
var dashboardVariables = []struct{ name, title, values string }{
	{"instance", "Instance", `label_values(ambassadord_build_info, instance)`},
	{"project", "Project", `label_values(ambassadord_client_connections_opened_total{instance=~"$instance"}, project)`},
	{"service", "Service", `label_values(ambassadord_client_connections_opened_total{instance=~"$instance", project=~"$project"}, service)`},
	{"client", "Client", `label_values(ambassadord_client_connections_opened_total{instance=~"$instance", project=~"$project", service=~"$service"}, client)`},
	{"target", "Target", `label_values(ambassadord_target_endpoints{instance=~"$instance"}, target)`},
}

// object is one of JSON.
type object map[string]any

// dashboardFile is deploy/grafana/ambassadord.json: panels of Grafana's own, in the words of schema 38 (Grafana
// 10), which later ones read. Numbers of panels are their places, so they change only with the table.
func dashboardFile() (string, error) {
	source := object{"type": "prometheus", "uid": "${datasource}"}
	var panels []object
	y := 0
	for _, row := range dashboardRows {
		panels = append(panels, object{"id": len(panels) + 1, "type": "row", "title": row.title, "collapsed": false, "panels": []object{},
			"gridPos": object{"x": 0, "y": y, "w": 24, "h": 1}})
		y++
		x, height := 0, 8
		if row.panels[0].kind == "stat" {
			height = 4
		}
		for i := range row.panels {
			p := &row.panels[i]
			if x+p.width > 24 {
				x, y = 0, y+height
			}
			made := p.json(source)
			made["id"], made["gridPos"] = len(panels)+1, object{"x": x, "y": y, "w": p.width, "h": height}
			panels = append(panels, made)
			x += p.width
		}
		y += height
	}
	variables := []object{{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0, "includeAll": false, "multi": false, "refresh": 1}}
	for _, v := range dashboardVariables {
		variables = append(variables, object{
			"name": v.name, "label": v.title, "type": "query", "datasource": source, "definition": v.values,
			"query": object{"query": v.values, "refId": "variable-" + v.name}, "refresh": 2, "sort": 1, "hide": 0,
			"includeAll": true, "allValue": ".*", "multi": true, "current": object{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}},
		})
	}
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(object{
		"uid": "ambassadord", "title": "ambassadord", "tags": []string{"ambassadord"}, "schemaVersion": 38, "version": 1, "editable": true,
		"description": "Made by go test ./internal/metrics -update.",
		"time":        object{"from": "now-3h", "to": "now"}, "refresh": "30s", "graphTooltip": 1, "timezone": "",
		"annotations": object{"list": []object{}}, "links": []object{}, "templating": object{"list": variables}, "panels": panels,
	})
	return out.String(), err
}

func (p *panel) json(source object) object {
	var targets []object
	for i, q := range p.queries {
		target := object{"refId": string(rune('A' + i)), "datasource": source, "expr": q.expr, "legendFormat": q.legend, "editorMode": "code", "range": p.kind != "table", "instant": p.kind == "table"}
		if p.kind == "table" {
			target["format"] = "table"
		}
		targets = append(targets, target)
	}
	defaults := object{"unit": p.unit}
	made := object{"type": p.kind, "title": p.title, "description": p.about, "datasource": source, "targets": targets,
		"fieldConfig": object{"defaults": defaults, "overrides": []object{}}}
	switch p.kind {
	case "stat":
		made["options"] = object{"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false}, "colorMode": "none", "graphMode": "area", "textMode": "auto"}
	case "table":
		made["options"] = object{"showHeader": true}
		made["transformations"] = []object{{"id": "organize", "options": object{"excludeByName": object{"Time": true, "__name__": true, "job": true}}}}
	default:
		defaults["min"] = 0
		made["options"] = object{"legend": object{"displayMode": "list", "placement": "bottom", "showLegend": true}, "tooltip": object{"mode": "multi", "sort": "desc"}}
	}
	return made
}

// expressions are all that the dashboard asks, by where.
func expressions() map[string]string {
	all := map[string]string{}
	for _, row := range dashboardRows {
		for i := range row.panels {
			for j, q := range row.panels[i].queries {
				all[fmt.Sprintf("panel %q of row %q, query %d", row.panels[i].title, row.title, j+1)] = q.expr
			}
		}
	}
	return all
}

// TestDashboard: no panel lies on another, each variable is used, and none that is not there.
func TestDashboard(t *testing.T) {
	text, err := dashboardFile()
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID          int
			Title, Type string
			GridPos     struct{ X, Y, W, H int }
		}
		Templating struct{ List []struct{ Name string } }
	}
	if err := json.Unmarshal([]byte(text), &board); err != nil {
		t.Fatal(err)
	}
	taken := map[[2]int]string{}
	for i, p := range board.Panels {
		at := p.GridPos
		if p.ID != i+1 || at.X+at.W > 24 || !slices.Contains([]string{"row", "stat", "table", "timeseries"}, p.Type) {
			t.Errorf("panel %d: %+v", i+1, p)
		}
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
	used := map[string]bool{"__rate_interval": true, "__all": true}
	for _, v := range board.Templating.List {
		used[v.Name] = false
	}
	for _, m := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(text, -1) {
		if _, ok := used[m[1]]; !ok {
			t.Errorf("there is no variable %s", m[1])
		}
		used[m[1]] = true
	}
	for name, is := range used {
		if !is {
			t.Errorf("the variable %s chooses nothing", name)
		}
	}
}
