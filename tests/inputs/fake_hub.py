"""A hub on this machine: as much of its protocol as a snapshot needs."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(repository: str, kind: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder as a repository; yields the address and, as they are made, the requests."""
    requests = []
    prefix = "" if kind == "model" else f"{kind}s/"
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, with_body):
            path = self.path.partition("?")[0].lstrip("/")
            requests.append(path)
            root = f"{prefix}{repository}/resolve/"
            if path.startswith(f"api/{kind}s/{repository}/tree/"):
                tree = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": "0" * 40}
                        for n, f in files.items()]  # fmt: skip
                self.send(json.dumps(tree).encode(), with_body)
            elif path.startswith(f"api/{kind}s/{repository}"):
                if path.endswith("/revision/nowhere"):
                    self.refuse("RevisionNotFound")
                else:
                    siblings = [{"rfilename": name} for name in files]
                    info = {"id": repository, "sha": COMMIT, "siblings": siblings}
                    self.send(json.dumps(info).encode(), with_body)
            elif path.startswith(root) and (name := path[len(root) :].partition("/")[2]) in files:
                self.send(files[name].read_bytes(), with_body)
            else:
                self.refuse("RepoNotFound")

        def send(self, data, with_body):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", hashlib.sha1(data).hexdigest())
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(data)

        def refuse(self, code):
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
