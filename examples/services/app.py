"""Counts visits: the number in Redis, each visit's time in PostgreSQL."""

import http.server
import os

import psycopg2
import redis

counter = redis.Redis(host="redis")
database = psycopg2.connect(host="db", dbname="app", user="app", password=os.environ["POSTGRES_PASSWORD"])
database.autocommit = True


class Visits(http.server.BaseHTTPRequestHandler):
    """Answers each request with the numbers of visits that both have."""

    def do_GET(self) -> None:
        """Count the visit."""
        number = counter.incr("visits")
        with database.cursor() as cursor:
            cursor.execute("INSERT INTO visits VALUES (now())")
            cursor.execute("SELECT count(*) FROM visits")
            (rows,) = cursor.fetchone()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{number} {rows}\n".encode())


with database.cursor() as cursor:
    cursor.execute("CREATE TABLE IF NOT EXISTS visits (at timestamptz)")
http.server.HTTPServer(("", 8000), Visits).serve_forever()
