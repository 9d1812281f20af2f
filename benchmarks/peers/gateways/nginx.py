"""nginx, the limit: it relays bytes and knows nothing of calls. A process of our own, no service.

At its best here: connections to the upstream are kept (512, HTTP/1.1, no `Connection: close`),
nothing is buffered or logged, a connection may serve any number of requests, and the key is looked
at by a `map`. One worker, as of the others; needs the Debian package nginx.
"""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.peers.contender import Command
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.gateways.gateway import CALLER_KEY, PROVIDER_KEY, Gateway, Place, bearer

WORKERS = 1

CONFIG = """
daemon off;
{user}
worker_processes {workers};
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  tcp_nodelay on;
  map $http_authorization $known {{ default 0; "Bearer {key}" 1; }}
  upstream provider {{
    server {upstream};
    keepalive 512;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location /v1/ {{
      if ($known = 0) {{ return 401; }}
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {provider_key}";
      proxy_buffering off;
    }}
  }}
}}
"""


def _binary() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        raise Unavailable("nginx is missing; install the Debian package nginx")
    return found


def _command(place: Place) -> Command:
    config = place.folder / "nginx.conf"
    config.write_text(
        CONFIG.format(
            # Started by root its worker would be somebody else, who may not enter our folder.
            user="user root;" if os.geteuid() == 0 else "",
            workers=WORKERS,
            folder=place.folder,
            key=CALLER_KEY,
            provider_key=PROVIDER_KEY,
            upstream=urlsplit(place.upstream).netloc,
            port=place.port,
        )
    )
    argv = [_binary(), "-p", str(place.folder), "-c", str(config), "-e", "stderr"]
    return Command(argv, {}, bearer(CALLER_KEY))


def _version(_peers: Path) -> str:
    said = subprocess.run([_binary(), "-v"], capture_output=True, text=True).stderr
    return said.strip().rpartition("/")[2]


NGINX = Gateway(
    "nginx",
    f"the limit: {WORKERS} worker, kept connections, no buffers, no log, one key",
    _command,
    _version,
)
