"""Datasets by hub name, against a hub of our own on this machine that speaks the few requests that are needed."""

import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "a" * 40
STORIES = [{"text": f"Story {number} of a hen and her eggs.\n", "number": number} for number in range(100)]
FILES = {"data/train.jsonl": "".join(json.dumps(row) + "\n" for row in STORIES).encode()}
ENTRIES = [{"type": "file", "path": name, "size": len(content), "oid": "b" * 40} for name, content in FILES.items()]
FOLDER = {"type": "directory", "path": "data", "size": 0, "oid": "c" * 40}
INFO = {
    "id": "owner/stories", "author": "owner", "sha": COMMIT, "private": False, "gated": False, "disabled": False,
    "downloads": 0, "likes": 0, "tags": [], "siblings": [{"rfilename": name} for name in FILES],
    "lastModified": "2024-01-01T00:00:00.000Z", "createdAt": "2024-01-01T00:00:00.000Z",
}  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _send(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        if file := re.fullmatch(r"/datasets/owner/stories/resolve/[^/]+/(.*)", path):
            self._file(FILES.get(file[1]))
        elif path.startswith("/api/datasets/owner/stories/tree/"):
            self._send(200, json.dumps(ENTRIES if path.endswith("/data") else [FOLDER]).encode())
        elif re.fullmatch(r"/api/datasets/owner/stories(/revision/[^/]+)?", path):
            self._send(200, json.dumps(INFO).encode(), Content_Type="application/json")
        else:
            self._send(404, b"{}", X_Error_Code="RepoNotFound" if "/api/datasets/" in path else "EntryNotFound")

    do_HEAD = do_GET

    def _file(self, content: bytes | None) -> None:
        if content is None:
            self._send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        elif wanted := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            place = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            self._send(206, content[start : end + 1], X_Repo_Commit=COMMIT, ETag='"e"', Content_Range=place)
        else:
            self._send(200, content, X_Repo_Commit=COMMIT, ETag='"e"', Accept_Ranges="bytes")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.slow
def test_a_dataset_by_name_is_fetched_and_then_needs_no_network(
    hub: ThreadingHTTPServer, tmp_path: Path, spec_for: Any, write_spec: Any, command: Any, home: Path
) -> None:
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    environment["HF_DATASETS_CACHE"] = str(tmp_path / "hf" / "datasets")

    def prepare(*overrides: str, code: int = 0) -> Any:
        file = write_spec(spec_for("owner/stories"))
        process = command(
            "--spec", str(file), "--json", *(item for name in overrides for item in ("--set", name)), env=environment
        )
        output, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        assert "Traceback" not in errors
        return json.loads(output) if code == 0 else output

    assert prepare()["documents"] == 100
    streamed = prepare("data.max_documents=40")
    assert streamed["documents"] == 40
    assert streamed["bytes"] == sum(len(str(row["text"])) for row in STORIES[:40])
    assert "train" in prepare("data.split=test", code=1)
    assert "owner/nothing" in prepare("data.source=owner/nothing", code=1)
    environment["HF_HUB_OFFLINE"] = "1"
    assert prepare()["documents"] == 100
    assert prepare("data.max_documents=40") == streamed
    assert not list(home.glob("data/hub/*.[0-9]*"))
