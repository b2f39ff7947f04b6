import java.io.*;
import java.net.URI;
import java.net.http.*;
import java.sql.*;
import java.time.Duration;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

/** A client with a pool of ten connections, by one of Java's drivers; see goworker/main.go. */
class Worker {
    static final int CONNECTIONS = 10;

    interface Request { void make(boolean slow) throws Exception; }

    static Request driver(String name, String address) throws Exception {
        if (name.equals("JDBC with HikariCP")) {
            var config = new com.zaxxer.hikari.HikariConfig();
            config.setJdbcUrl("jdbc:postgresql://" + address + "/postgres?sslmode=disable&socketTimeout=2&connectTimeout=2");
            config.setUsername("postgres");
            config.setMaximumPoolSize(CONNECTIONS);
            config.setConnectionTimeout(2000);
            config.setValidationTimeout(1000);
            var pool = new com.zaxxer.hikari.HikariDataSource(config);
            return slow -> {
                try (Connection c = pool.getConnection(); Statement s = c.createStatement()) {
                    s.executeQuery(slow ? "select 1 from pg_sleep(0.3)" : "select 1").next();
                }
            };
        }
        var client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(2)).build();
        return slow -> {
            var request = HttpRequest.newBuilder(URI.create("http://" + address + (slow ? "/slow" : "/"))).timeout(Duration.ofSeconds(2)).build();
            int status = client.send(request, HttpResponse.BodyHandlers.discarding()).statusCode();
            if (status != 200) throw new IOException("status " + status);
        };
    }

    static String round(Request request, int each, boolean slow) throws Exception {
        var requests = new AtomicInteger();
        var failed = new AtomicInteger();
        var slowest = new AtomicLong();
        var error = new AtomicReference<>("");
        var threads = Executors.newFixedThreadPool(CONNECTIONS);
        for (int i = 0; i < CONNECTIONS; i++) {
            threads.submit(() -> {
                for (int n = 0; n < each; n++) {
                    long began = System.nanoTime();
                    try {
                        request.make(slow);
                    } catch (Exception e) {
                        failed.incrementAndGet();
                        error.compareAndSet("", e.toString().replaceAll("[^ -~]|[\"\\\\]", " "));
                    }
                    requests.incrementAndGet();
                    slowest.accumulateAndGet((System.nanoTime() - began) / 1_000_000, Math::max);
                }
            });
        }
        threads.shutdown();
        threads.awaitTermination(1, TimeUnit.MINUTES);
        return String.format("{\"requests\":%d,\"failed\":%d,\"slowest\":%d,\"error\":\"%s\"}", requests.get(), failed.get(), slowest.get(), error.get());
    }

    public static void main(String[] args) throws Exception {
        var request = driver(args[0], args[1]);
        var lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null;) {
            System.out.println(line.equals("warm") ? round(request, 1, true) : round(request, 2, false));
        }
        System.exit(0);
    }
}
