"""Two services in one process: the desk's own over HTTP, and the model's on a Unix socket, for the desk and everybody.

Environment: DESK_HTTP is where the desk listens, RKLLM_UDS_PATH the model's socket, DESK_BACKEND and DESK_MODEL what
runs.
"""

import os

from desk import site
from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.server import Site

from rkllm_twisted.backends import bestBackend, makeBackend
from rkllm_twisted.backends.isolated.backend import IsolatedBackend
from rkllm_twisted.backends.isolated.limits import Limits
from rkllm_twisted.service import RKLLMService

path = os.environ.get("RKLLM_UDS_PATH", "/tmp/rkllm.sock")
http = os.environ.get("DESK_HTTP", "tcp:8080:interface=127.0.0.1")
name = os.environ.get("DESK_BACKEND") or bestBackend()
model = os.environ.get("DESK_MODEL", "smollm2")

application = Application("desk")
# In a child process, so that a crash of the model's runtime is none of the desk.
backend = IsolatedBackend(makeBackend(name), name, reactor, Limits())
RKLLMService(backend, f"unix:{path}", reactor, model).setServiceParent(application)
endpoint = serverFromString(reactor, http)
StreamServerEndpointService(endpoint, Site(site(reactor, path))).setServiceParent(application)
