"""A client with a pool of ten connections, by one of Python's drivers; see goworker/main.go."""
import json
import sys
import threading
import time

CONNECTIONS, TIMEOUT = 10, 2
name, address = sys.argv[1:3]
host, port = address.split(":")

if name == "psycopg2":
    import psycopg2.pool

    pool = psycopg2.pool.ThreadedConnectionPool(
        CONNECTIONS, CONNECTIONS, host=host, port=port, user="postgres", dbname="postgres", sslmode="disable",
        connect_timeout=TIMEOUT, tcp_user_timeout=TIMEOUT * 1000, options="-c statement_timeout=2000")

    def request(slow):
        # psycopg2 has no timeout for a server that is silent: this is how its manual does it.
        connection = pool.getconn()
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("select 1 from pg_sleep(0.3)" if slow else "select 1")
                cursor.fetchall()
        finally:
            pool.putconn(connection)

    # A server that is silent blocks libpq for ever: give up waiting as an application would.
    import psycopg2.extensions
    import select

    def wait(connection):
        until = time.monotonic() + TIMEOUT
        while True:
            state = connection.poll()
            if state == psycopg2.extensions.POLL_OK:
                return
            left = max(until - time.monotonic(), 0)
            reads = [connection] if state == psycopg2.extensions.POLL_READ else []
            writes = [connection] if state == psycopg2.extensions.POLL_WRITE else []
            if select.select(reads, writes, [], left) == ([], [], []):
                connection.close()
                raise psycopg2.OperationalError("timeout")

    psycopg2.extensions.set_wait_callback(wait)
elif name == "redis-py":
    import redis

    client = redis.Redis(connection_pool=redis.BlockingConnectionPool(
        host=host, port=int(port), max_connections=CONNECTIONS, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT))

    def request(slow):
        if slow:
            client.blpop("nothing", timeout=1)
        else:
            client.ping()
elif name == "python http":
    import requests

    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=CONNECTIONS, pool_block=True))

    def request(slow):
        session.get(f"http://{address}/{'slow' if slow else ''}", timeout=TIMEOUT).raise_for_status()
else:
    sys.exit(f"no driver {name}")


def round_of(each, slow):
    outcome = {"requests": 0, "failed": 0, "slowest": 0, "error": ""}
    lock = threading.Lock()

    def thread():
        for _ in range(each):
            began, error = time.monotonic(), None
            try:
                request(slow)
            except Exception as e:  # whatever a driver raises is a request that failed
                error = f"{type(e).__name__}: {e}"
            with lock:
                outcome["requests"] += 1
                outcome["slowest"] = max(outcome["slowest"], int((time.monotonic() - began) * 1000))
                if error:
                    outcome["failed"] += 1
                    outcome["error"] = outcome["error"] or error

    threads = [threading.Thread(target=thread) for _ in range(CONNECTIONS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return outcome


for line in sys.stdin:
    print(json.dumps(round_of(1, True) if line.strip() == "warm" else round_of(2, False)), flush=True)
