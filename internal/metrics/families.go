package metrics

import "slices"

// metricFamily is all metrics of one name. The table below is the one place that knows them: /metrics and
// docs/metrics.md are made of it.
type metricFamily struct {
	name, kind string
	labels     []string
	help       string
	stable     bool // name, labels and meaning are a promise

	index int // in families
}

const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
	summary   = "summary"
)

const (
	stable   = true
	unstable = false
)

// ofClient are the labels of what is counted of one client and target.
var ofClient = []string{"client", "project", "service", "target"}

// families is filled by define, in the order of documentation.
var families []*metricFamily

func define(name, kind string, stable bool, help string, labels ...string) *metricFamily {
	f := &metricFamily{name: "ambassadord_" + name, kind: kind, labels: labels, help: help, stable: stable, index: len(families)}
	families = append(families, f)
	return f
}

var (
	buildInfo = define("build_info", gauge, stable, "1, with the version of the daemon.", "version")
	ready     = define("ready", gauge, stable, "1 once the daemon follows the containers that are there and serves them.")
	engineUp  = define("engine_up", gauge, stable, "1 while what is known of containers is current, or no engine is asked.")
	handover  = define("handover", gauge, unstable, "1, with how far a handover to another daemon is.", "state")

	configHolds = define("config_last_reload_successful", gauge, stable, "0 after a reload that was refused, until one holds.")
	configRead  = define("config_last_reload_success_timestamp_seconds", gauge, stable, "When the configuration was read that holds, in seconds since 1970.")

	opened = define("connections_opened_total", counter, stable,
		"Connections that were accepted, counted when their endpoint has answered or they have ended, at the latest at a scrape.")
	closed     = define("connections_closed_total", counter, stable, "Connections that have ended, those that failed included.")
	failed     = define("connections_failed_total", counter, stable, "Connections that failed, by the reason that the log gives.", "reason")
	openNow    = define("connections_open", gauge, stable, "Connections whose endpoint has answered and that have not ended.")
	sent       = define("sent_bytes_total", counter, stable, "Bytes from clients to endpoints, those of connections that go on included.")
	received   = define("received_bytes_total", counter, stable, "Bytes from endpoints to clients, those of connections that go on included.")
	dialled    = define("dials_total", counter, stable, "Endpoints dialled for connections: more than were opened where some did not answer.")
	establish  = define("connection_establish_seconds", histogram, stable, "From accept until an endpoint had answered.")
	unanswered = define("connection_unanswered_seconds", histogram, stable, "From accept until a connection was given up for which no endpoint answered.")
	duration   = define("connection_duration_seconds", histogram, stable, "From accept to the end, of connections that have ended.")

	clientOpened    = define("client_connections_opened_total", counter, stable, "Like ambassadord_connections_opened_total, of one client to one target.", ofClient...)
	clientClosed    = define("client_connections_closed_total", counter, stable, "Like ambassadord_connections_closed_total, of one client to one target.", ofClient...)
	clientFailed    = define("client_connections_failed_total", counter, stable, "Like ambassadord_connections_failed_total, of one client to one target; reasons that have not occurred are left out.", append(slices.Clone(ofClient), "reason")...)
	clientOpen      = define("client_connections_open", gauge, stable, "Like ambassadord_connections_open, of one client to one target.", ofClient...)
	clientSent      = define("client_sent_bytes_total", counter, stable, "Like ambassadord_sent_bytes_total, of one client to one target.", ofClient...)
	clientReceived  = define("client_received_bytes_total", counter, stable, "Like ambassadord_received_bytes_total, of one client to one target.", ofClient...)
	clientDialled   = define("client_dials_total", counter, stable, "Like ambassadord_dials_total, of one client to one target.", ofClient...)
	clientEstablish = define("client_connection_establish_seconds", summary, stable, "Count and sum of the time until an endpoint had answered, of one client to one target.", ofClient...)

	clientSeries     = define("client_series", gauge, unstable, "Pairs of client and target that are told apart.")
	clientSeriesMost = define("client_series_limit", gauge, unstable, "How many may be: --metrics-series.")
	overflowed       = define("client_series_overflows_total", counter, unstable, "Reports on connections for which there was no series of their own.")

	containers  = define("containers", gauge, stable, "Containers that are known.")
	bindings    = define("bindings", gauge, stable, "Ports that containers declare.")
	quarantined = define("bindings_quarantined", gauge, stable, "Those of them that are not served, because of a mistake or because another container has the port.")
	mistakes    = define("declaration_mistakes", gauge, stable, "Declarations of containers that are none.")
	listeners   = define("listeners", gauge, stable, "Listeners that lead to one target each.")

	targets         = define("targets", gauge, stable, "Targets that containers and listeners declare.")
	targetClients   = define("target_clients", gauge, stable, "Containers that declare the target.", "target")
	targetEndpoints = define("target_endpoints", gauge, stable, "Endpoints of the target that are in use.", "target")
	targetFailing   = define("target_failing", gauge, stable, "1 while a connection to the target gets no endpoint: its sources fail, or name none.", "target")
	targetOut       = define("target_endpoints_out", gauge, stable, "Endpoints of the target that get no connection: ejected, or down by their checks.", "target")
	targetEjected   = define("target_endpoints_ejected", gauge, stable, "Endpoints of the target that are ejected after failures.", "target")
	targetPanic     = define("target_panic", gauge, unstable, "1 while so many endpoints of the target are out that none counts as out.", "target")
	targetChecks    = define("target_checks", gauge, stable, "Endpoints of the target by what their check says: up, down or unchecked.", "target", "verdict")

	endpointOut  = define("endpoint_out", gauge, unstable, "1 while the endpoint of the target gets no connection. Only with --metrics-endpoints.", "target", "endpoint")
	endpointOpen = define("endpoint_connections_open", gauge, unstable, "Connections to the endpoint, of all targets that have it. Only with --metrics-endpoints.", "target", "endpoint")

	watches      = define("source_watches", gauge, stable, "Questions that targets ask of a kind of source and that are watched.", "source")
	unwatched    = define("source_unwatched", gauge, stable, "Questions that no watch runs for, since no client has declared or dialled their target.", "source")
	failing      = define("source_failing", gauge, stable, "Questions whose source fails; what it said before counts still.", "source")
	failingFor   = define("source_failing_seconds", gauge, stable, "For how long the one has failed that has failed longest.", "source")
	oldestAnswer = define("source_oldest_answer_seconds", gauge, unstable, "How long ago the oldest answer came that is in use; a source that is watched answers when something changes.", "source")
	limitOpen    = define("limit_open", gauge, stable, "Connections that have a place of the limit.", "limit")
	limitWaiting = define("limit_waiting", gauge, stable, "Connections that wait for a place.", "limit")
	limitMost    = define("limit_most", gauge, stable, "How many places there are; 0 is no limit.", "limit")
	snapshotTook = define("snapshot_seconds", gauge, unstable, "How long it took to ask the parts of the daemon for this scrape.")
)
