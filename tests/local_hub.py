"""A Hugging Face Hub on this machine, for tests of downloads."""

import base64
import http.server
import json
import re
import threading
from functools import partial
from pathlib import Path

import pytest


class Hub(http.server.SimpleHTTPRequestHandler):
    """The part of the Hugging Face Hub that models need, for files in a folder."""

    def do_GET(self):
        match = re.match("/api/models/(.*?)/(tree|revision)/", self.path)
        if match is None:
            return super().do_GET()
        files = sorted(Path(self.directory, match[1]).iterdir())
        answer = {
            "tree": [
                {"type": "file", "path": f.name, "oid": "1", "size": f.stat().st_size}
                for f in files
            ],
            "revision": {
                "id": match[1],
                "sha": "1" * 40,
                "siblings": [{"rfilename": file.name} for file in files],
            },
        }[match[2]]
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match = re.match("/api/models/(.*)/(preupload|commit)/", self.path)
        folder, answer = Path(self.directory), {}
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / "asked.json").write_text(json.dumps(asked))
            answer = {"url": f"http://127.0.0.1/{name}"}
        elif match and match[2] == "preupload":
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in files
            ]
            answer = {"files": modes}
        elif match and match[2] == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    (folder / match[1] / line["value"]["path"]).write_bytes(content)
            url = f"http://127.0.0.1/{match[1]}/commit/{'1' * 40}"
            answer = {"commitUrl": url, "commitOid": "1" * 40}
        with open(folder / "requests.txt", "a") as log:
            log.write(f"{self.path}\n")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def translate_path(self, path):
        return super().translate_path(re.sub("/resolve/[^/]*", "", path))

    def end_headers(self):
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("ETag", f'"{abs(hash(self.path))}"')
        super().end_headers()

    def log_message(self, *_):
        pass


def serve(folder):
    """Starts a Hub that has the files of a folder."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Hub, directory=folder)
    )
    threading.Thread(target=server.serve_forever).start()
    return server


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A folder whose files are on a Hub of this machine's own."""
    folder = tmp_path / "hub"
    folder.mkdir()
    server = serve(folder)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()
