package main

import (
	"context"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
)

// driver is a client library, with the kind of backend that it speaks to.
type driver struct {
	name    string
	kind    serverKind
	command func(b *driverBench, address string) []string
	// needs are files and programs without which it does not run.
	needs []string
	// version prints it; a Go module's is looked up in goworker.
	version []string
	module  string
}

// goItself is the module of what Go brings along.
const goItself = "std"

const javaLibraries = "/usr/share/java/"

func inGo(name string) func(*driverBench, string) []string {
	return func(b *driverBench, address string) []string {
		return []string{filepath.Join(b.goDir, "goworker"), name, address}
	}
}

func inPython(name string) func(*driverBench, string) []string {
	return func(b *driverBench, address string) []string {
		return []string{"/usr/bin/python3", filepath.Join(b.workers, "worker.py"), name, address}
	}
}

func inNode(name string) func(*driverBench, string) []string {
	return func(b *driverBench, address string) []string {
		return []string{"node", filepath.Join(b.workers, "node", "worker.js"), name, address}
	}
}

func inJava(name string) func(*driverBench, string) []string {
	libraries := strings.Join([]string{javaLibraries + "postgresql.jar", javaLibraries + "HikariCP.jar", javaLibraries + "slf4j-api.jar", javaLibraries + "slf4j-nop.jar"}, ":")
	return func(b *driverBench, address string) []string {
		return []string{"java", "-cp", libraries, filepath.Join(b.workers, "java", "Worker.java"), name, address}
	}
}

func packageVersion(name string) []string {
	return []string{"dpkg-query", "-W", "-f", "${Version}", name}
}

func nodeVersion(module string) []string {
	return []string{"node", "-p", "require('" + module + "/package.json').version"}
}

var drivers = []driver{
	{name: "pgx", kind: postgres, command: inGo("pgx"), module: "github.com/jackc/pgx/v5"},
	{name: "lib/pq", kind: postgres, command: inGo("lib/pq"), module: "github.com/lib/pq"},
	{name: "node pg", kind: postgres, command: inNode("node pg"), needs: []string{"node", "node/node_modules/pg"}, version: nodeVersion("pg")},
	{name: "JDBC with HikariCP", kind: postgres, command: inJava("JDBC with HikariCP"), needs: []string{"java", javaLibraries + "HikariCP.jar", javaLibraries + "postgresql.jar"}, version: packageVersion("libhikaricp-java")},
	{name: "psycopg2", kind: postgres, command: inPython("psycopg2"), needs: []string{"/usr/lib/python3/dist-packages/psycopg2"}, version: packageVersion("python3-psycopg2")},
	{name: "go-redis", kind: redis, command: inGo("go-redis"), module: "github.com/redis/go-redis/v9"},
	{name: "ioredis", kind: redis, command: inNode("ioredis"), needs: []string{"node", "node/node_modules/ioredis"}, version: nodeVersion("ioredis")},
	{name: "redis-py", kind: redis, command: inPython("redis-py"), needs: []string{"/usr/lib/python3/dist-packages/redis"}, version: packageVersion("python3-redis")},
	{name: "go http", kind: web, command: inGo("go http"), module: goItself},
	{name: "node http", kind: web, command: inNode("node http"), needs: []string{"node"}, version: []string{"node", "--version"}},
	{name: "java http", kind: web, command: inJava("java http"), needs: []string{"java"}, version: []string{"java", "--version"}},
	{name: "python http", kind: web, command: inPython("python http"), needs: []string{"/usr/lib/python3/dist-packages/requests"}, version: packageVersion("python3-requests")},
	{name: "nginx", kind: web, command: inGo("go http"), needs: []string{"nginx"}, version: []string{"nginx", "-v"}},
}

// missing says what is not there of what the driver and its backend need.
func (d *driver) missing(b *driverBench) string {
	for _, need := range append(d.kind.needs(), d.needs...) {
		_, err := exec.LookPath(need)
		if strings.Contains(need, "/") {
			if !filepath.IsAbs(need) {
				need = filepath.Join(b.workers, need)
			}
			_, err = os.Stat(need)
		}
		if err != nil {
			return need + " is not installed"
		}
	}
	return ""
}

var number = regexp.MustCompile(`\d+\.\d+(\.\d+)*`)

func (d *driver) versionOf(ctx context.Context, b *driverBench) string {
	if d.module != "" {
		info, err := buildinfo.ReadFile(filepath.Join(b.goDir, "goworker"))
		if err != nil {
			return ""
		}
		for _, m := range append(info.Deps, &debug.Module{Path: goItself, Version: info.GoVersion}) {
			if m.Path == d.module {
				return number.FindString(m.Version)
			}
		}
	}
	if len(d.version) == 0 {
		return ""
	}
	cmd := exec.CommandContext(ctx, d.version[0], d.version[1:]...)
	cmd.Dir = filepath.Join(b.workers, "node")
	out, _ := cmd.CombinedOutput()
	return number.FindString(string(out))
}
