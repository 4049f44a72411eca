"A model hub on localhost: the endpoints that huggingface_hub needs to download and to upload."

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = 4096  # bytes from which a file goes through the large-file endpoints, as safetensors do


@dataclass
class Repo:
    "One model: its commits, newest last, each a dictionary of path -> bytes."

    private: bool = False
    gated: int = 0  # the code of the answer to who has no access: 401 without a login, or 403
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def add(self, files: dict[str, bytes]) -> str:
        "A new commit with exactly these files; its name."
        everything = b"".join(k.encode() + v for k, v in sorted(files.items()))
        sha = hashlib.sha1(everything + bytes([len(self.commits)])).hexdigest()
        self.commits.append((sha, files))
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        "The commit that a revision names."
        if revision == "main":
            return self.commits[-1] if self.commits else ("0" * 40, {})
        return next((c for c in self.commits if c[0] == revision), None)


@dataclass
class Hub:
    "What is stored, what was asked, and how the hub misbehaves."

    token: str = ""  # the only token that may write and see private models; "": none is needed
    cut_at: int = 0  # bytes after which an answer with a file's content breaks off; 0: never
    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # sha256 -> uploaded content
    asked: list[str] = field(default_factory=list)  # "GET /api/models/..."
    sizes: dict[str, int] = field(default_factory=dict)  # path -> a size that is told instead

    def add_folder(self, repo_id: str, folder: Path, **how) -> str:
        "Publish a folder's files as a commit of `repo_id`; the commit's name."
        files = {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }
        return self.repos.setdefault(repo_id, Repo(**how)).add(files)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args) -> None:
        pass

    def reply(self, code: int, body: bytes = b"", **headers) -> None:
        self.send_response(code)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, what, code: int = 200, **headers) -> None:
        self.reply(code, json.dumps(what).encode(), Content_Type="application/json", **headers)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def knows_me(self) -> bool:
        return self.hub.token in ("", self.headers.get("Authorization", "")[len("Bearer ") :])

    def repo(self, name: str) -> Repo | None:
        "The model, where the asker may see it; else an answer as the real hub gives it."
        found = self.hub.repos.get(name)
        if found is None or (found.private and not self.knows_me()):
            code = 404 if self.knows_me() else 401  # as the real hub: who asks may have no login
            self.json({"error": "Repository not found"}, code, X_Error_Code="RepoNotFound")
        elif found.gated and not self.knows_me():
            error = "Access to this model is restricted"
            about = dict(X_Error_Code="GatedRepo", X_Error_Message=error)
            self.json({"error": error}, found.gated, **about)
        else:
            return found
        return None

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(?:revision|tree)/([^/]+)", path):
            self.about(*m.groups(), tree="/tree/" in path)
        elif m := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            self.about(m[1], "main", tree=False)
        elif m := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(*m.groups())
        else:
            self.json({"error": "no such address"}, 404)

    do_HEAD = do_GET

    def about(self, name: str, revision: str, tree: bool) -> None:
        if (repo := self.repo(name)) is None:
            return
        if (commit := repo.at(revision)) is None:
            self.json({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            return
        sha, files = commit
        if tree:
            rows = [
                {"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for p, b in files.items()
            ]
            self.json(rows)
            return
        sizes = {p: self.hub.sizes.get(p, len(content)) for p, content in files.items()}
        siblings = [{"rfilename": p, "size": size} for p, size in sizes.items()]
        about = {"id": name, "modelId": name, "sha": sha, "private": repo.private, "tags": []}
        self.json(about | {"siblings": siblings})

    def file(self, name: str, revision: str, path: str) -> None:
        if (repo := self.repo(name)) is None:
            return
        commit = repo.at(revision)
        if commit is None or path not in commit[1]:
            self.json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            return
        sha, content = commit[0], commit[1][path]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        about = {"ETag": etag, "X_Repo_Commit": sha, "Accept_Ranges": "bytes"}
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        code, rest = (206, content[int(start[1]) :]) if start else (200, content)
        if start:
            about["Content_Range"] = f"bytes {start[1]}-{len(content) - 1}/{len(content)}"
        cut = self.hub.cut_at
        if cut and self.command == "GET" and len(rest) > cut:
            self.reply(code, rest[:cut], Content_Length=str(len(rest)), **about)
            self.close_connection = True
            return
        self.reply(code, rest, **about)

    def do_POST(self) -> None:
        self.hub.asked.append(f"POST {self.path}")
        sent = self.body()
        if not self.knows_me():
            self.json({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self.create(json.loads(sent))
        elif m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
            files = json.loads(sent)["files"]
            modes = [(f["path"], "lfs" if f["size"] >= LARGE else "regular") for f in files]
            rows = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes]
            self.json({"files": rows})
        elif m := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.path):
            self.batch(json.loads(sent))
        elif m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            self.commit(m[1], sent)
        elif self.path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
        else:
            self.json({"error": "no such address"}, 404)

    def create(self, asked: dict) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.hub.repos:
            there = {"url": f"{self.hub.url}/{name}", "name": name}
            self.json({"error": "You already created this model repo", **there}, 409)
            return
        private = bool(asked.get("private", asked.get("visibility") == "private"))
        self.hub.repos[name] = Repo(private=private)
        self.json({"url": f"{self.hub.url}/{name}", "name": name})

    def batch(self, asked: dict) -> None:
        rows = []
        for o in asked["objects"]:
            row = {"oid": o["oid"], "size": o["size"]}
            if o["oid"] not in self.hub.large:
                row["actions"] = {"upload": {"href": f"{self.hub.url}/upload/{o['oid']}"}}
            rows.append(row)
        self.json({"transfer": "basic", "objects": rows})

    def do_PUT(self) -> None:
        self.hub.asked.append(f"PUT {self.path}")
        self.hub.large[self.path.rpartition("/")[2]] = self.body()
        self.reply(200)

    def commit(self, name: str, sent: bytes) -> None:
        repo = self.hub.repos[name]
        files = dict(repo.at("main")[1])
        for line in map(json.loads, sent.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        sha = repo.add(files)
        url = f"{self.hub.url}/{name}/commit/{sha}"
        self.json({"success": True, "commitUrl": url, "commitOid": sha})


@contextlib.contextmanager
def serve_hub(**how) -> Iterator[Hub]:
    "A running hub; its `url` is what HF_ENDPOINT is to be."
    hub = Hub(**how)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def hub_env(hub: Hub, home: Path, token: str = "") -> dict[str, str]:
    "Environment of a process that uses this hub and nothing else (it is read at import)."
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    return env | ({"HF_TOKEN": token} if token else {})
