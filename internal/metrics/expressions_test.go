package metrics

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// vocabulary is what an expression may name: metrics with their labels.
type vocabulary map[string][]string

// scrapeLabels are what a scrape adds to each series.
var scrapeLabels = []string{"instance", "job"}

// newVocabulary is of the metrics of families, of the Go runtime and the process, and of a scrape.
func newVocabulary(t *testing.T) vocabulary {
	t.Helper()
	v := vocabulary{"up": nil}
	for _, f := range families {
		switch f.kind {
		case histogram:
			v[f.name+"_bucket"] = append(slices.Clone(f.labels), "le")
			fallthrough
		case summary:
			v[f.name+"_count"], v[f.name+"_sum"] = f.labels, f.labels
		default:
			v[f.name] = f.labels
		}
	}
	process := prometheus.NewRegistry()
	process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	others, err := process.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range others {
		v[f.GetName()] = nil
	}
	return v
}

var (
	// token is a string, a duration in brackets, an identifier, a number, or a character.
	token      = regexp.MustCompile(`"[^"]*"|\[[^\]]*\]|[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9.]+(?:e[0-9]+)?|\S`)
	identifier = regexp.MustCompile(`^[a-zA-Z_:]`)
)

// words of PromQL that tables of ours use.
var (
	groupings = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	functions = []string{"sum", "min", "max", "count", "topk", "rate", "increase", "changes", "histogram_quantile", "sqrt", "vector", "min_over_time", "label_values"}
	operators = []string{"and", "or", "unless"}
)

// check says which metric or label that expr names there is not. promtool knows the grammar.
func (v vocabulary) check(expr string) error {
	tokens := token.FindAllString(expr, -1)
	at := func(i int) string {
		if i >= 0 && i < len(tokens) {
			return tokens[i]
		}
		return ""
	}
	labels := slices.Clone(scrapeLabels) // of all its metrics
	for _, word := range tokens {
		labels = append(labels, v[word]...)
	}
	// list reads the labels in braces or parentheses from i on, and returns where they end.
	list := func(i int, end string, of []string) (int, error) {
		for ; at(i) != end; i++ {
			if at(i) == "" {
				return i, fmt.Errorf("no %s", end)
			}
			if identifier.MatchString(at(i)) && !slices.Contains(of, at(i)) {
				return i, fmt.Errorf("there is no label %s, of %s", at(i), of)
			}
		}
		return i, nil
	}
	metrics := 0
	for i := 0; i < len(tokens); i++ {
		word, err := tokens[i], error(nil)
		switch of, isMetric := v[word]; {
		case !identifier.MatchString(word) || slices.Contains(operators, word) || slices.Contains(functions, word):
		case slices.Contains(groupings, word):
			if at(i+1) == "(" {
				i, err = list(i+2, ")", labels)
			}
		case isMetric:
			metrics++
			if at(i+1) == "{" {
				i, err = list(i+2, "}", append(slices.Clone(scrapeLabels), of...))
			}
		case at(i-1) == "," && slices.Contains(labels, word) && slices.Contains(tokens, "label_values"):
		default:
			err = fmt.Errorf("there is no metric %s", word)
		}
		if err != nil {
			return err
		}
	}
	if metrics == 0 {
		return fmt.Errorf("it names no metric")
	}
	return nil
}

// TestVocabulary: the test below would see what does not exist.
func TestVocabulary(t *testing.T) {
	v := newVocabulary(t)
	for expr, wrong := range map[string]string{
		`ambassadord_ready == 0`: "",
		`sum by (instance) (rate(ambassadord_connections_opened_total[5m]))`: "",
		`label_values(ambassadord_target_failing{instance="a"}, target)`:     "",
		`ambassadord_redy == 0`:                                                   "ambassadord_redy",
		`ambassadord_ready{target="x"}`:                                           "target",
		`sum by (reasn) (ambassadord_connections_failed_total)`:                   "reasn",
		`ambassadord_connection_establish_seconds > 1`:                            "ambassadord_connection_establish_seconds",
		`label_values(ambassadord_ready, target)`:                                 "target",
		`ambassadord_ready / on (instance) group_left (client) ambassadord_ready`: "client",
		`1 + 1`: "no metric",
	} {
		switch err := v.check(expr); {
		case wrong == "" && err != nil:
			t.Errorf("%s: %v", expr, err)
		case wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)):
			t.Errorf("%s: %v; want that %s is wrong", expr, err, wrong)
		}
	}
}

var labelInText = regexp.MustCompile(`\$labels\.(\w+)`)

// TestExpressions: alerts and panels name metrics and labels that there are, and alerts say what their labels are.
func TestExpressions(t *testing.T) {
	v := newVocabulary(t)
	all := expressions()
	for _, variable := range dashboardVariables {
		all["variable "+variable.name] = variable.values
	}
	for _, a := range alertRules {
		all[a.name] = a.expr
		known := append(slices.Clone(scrapeLabels), a.labels...)
		for _, m := range labelInText.FindAllStringSubmatch(a.summary+a.meaning+a.action, -1) {
			if !slices.Contains(known, m[1]) {
				t.Errorf("%s: its text has the label %s, of %s", a.name, m[1], known)
			}
		}
		if len(a.fires) == 0 || len(a.quiet) == 0 {
			t.Errorf("%s lacks a trial in which it fires, or one in which it does not", a.name)
		}
	}
	for _, where := range slices.Sorted(maps.Keys(all)) {
		if err := v.check(all[where]); err != nil {
			t.Errorf("%s: %v:\n%s", where, err, all[where])
		}
	}
	for _, r := range strings.Split(notOurs+"|"+noEndpoint, "|") {
		if !slices.Contains(reasons, r) {
			t.Errorf("there is no reason %s", r)
		}
	}
}
