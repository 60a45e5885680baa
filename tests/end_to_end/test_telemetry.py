"""Spans of the real server, at a real collector: an HTTP server that decodes OTLP."""

import json
import queue
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from end_to_end.client_people import login
from end_to_end.server_process import DEADLINE, ServerProcess, run, server_process

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONFIG = '[server]\nauto_approve_devices = true\n[telemetry]\notlp_endpoint = "{}"\n'


class Collector:
    """Keeps the spans that it is sent."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.resource: dict[str, str] = {}
        self.spans: list[Any] = []
        self.raw: queue.Queue[tuple[str, bytes]] = queue.Queue()

    def until(self, name: str) -> Any:
        """The newest span of this name, once it has come."""
        while True:
            found = [span for span in self.spans if span.name == name]
            if found:
                return found[-1]
            path, body = self.raw.get(timeout=DEADLINE)
            assert path == "/v1/traces"
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = attributes(each.resource)
                self.spans += [span for scope in each.scope_spans for span in scope.spans]


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in of.attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.raw.put((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Not on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(server.server_port)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server: ServerProcess, path: str, traceparent: str) -> int:
    context = ssl.create_default_context(cafile=str(server.ca_file))
    request = urllib.request.Request(server.url + path, headers={"traceparent": traceparent})
    try:
        with urllib.request.urlopen(request, context=context, timeout=DEADLINE) as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        return exc.code


def test_requests_and_handshakes_arrive_as_spans(tmp_path: Path) -> None:
    with collector() as found, server_process(tmp_path, CONFIG.format(found.url)) as server:
        alice = login(server, "alice")
        assert ask(server, f"/api/devices/{alice.device_id}/certificate", f"00-{TRACE}-{PARENT}-01") == 401
        assert ask(server, "/api/server-info", f"00-{'ab' * 16}-{PARENT}-00") == 200
        # The last ones come when it stops, whatever the library waits for.
        assert server.stop() == 0

        request = found.until("GET /api/devices/{device_id}/certificate")
        assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
        assert attributes(request)["http.response.status_code"] == 401
        handshake = found.until("connect handshake")
        assert attributes(handshake)["commucat.mode"]
        assert len(attributes(handshake)["commucat.session_hash"]) == 16
        assert handshake.end_time_unix_nano > handshake.start_time_unix_nano
        # A caller that does not record decides for us, too.
        assert "ab" * 16 not in {span.trace_id.hex() for span in found.spans}
        assert found.resource["service.name"] == "commucat-server"
        assert found.resource["service.instance.id"]
        everything = "".join(map(str, found.spans))
        assert alice.device_id not in everything
        assert "alice" not in everything


def test_a_collector_that_is_away_is_a_line_in_the_log_and_nothing_else(tmp_path: Path) -> None:
    with collector() as gone:
        pass
    with server_process(tmp_path, CONFIG.format(gone.url)) as server:
        assert ask(server, "/api/server-info", "") == 200
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    told = [line for line in lines if "opentelemetry" in line["logger"]]
    assert told
    assert all(line["level"] in ("warning", "error") and "exception" not in line for line in told)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ('otlp_endpoint = "127.0.0.1:4318"', "is no address of a collector"),
        ('otlp_endpoint = "http://me:secret@127.0.0.1"', "must not hold a password"),
        ("sample_ratio = 1.5", "must be 0 to 1"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, setting: str, text: str) -> None:
    (tmp_path / "commucat.toml").write_text(f"[telemetry]\n{setting}\n")
    done = run(["commucat-server", "--data-dir", "data", "--bind", "127.0.0.1:0"], tmp_path)

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert text in line
    assert "secret" not in line
