"""moto as a server that changes one thing at a time: its own looks at a precondition and writes a moment later, so that of two
writers at once both may win. Called with a port; serves until it is killed.
"""

from __future__ import annotations

import os
import sys
import threading

os.environ.setdefault("S3_UPLOAD_PART_MIN_SIZE", "1000")  # read where it is imported; or tests would send megabytes

from moto.server import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class OneChangeAtATime:
    def __init__(self, application) -> None:
        self.application = application
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] in ("GET", "HEAD") or "partNumber=" in environ.get("QUERY_STRING", ""):
            return self.application(environ, start_response)
        with self.lock:
            return self.application(environ, start_response)


class KeepAlive(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_arguments, **_more) -> None:
        pass


if __name__ == "__main__":
    os.environ.setdefault("MOTO_S3_DEFAULT_KEY_BUFFER_SIZE", str(16 * 2**20))
    application = OneChangeAtATime(create_backend_app("s3"))
    server = make_server("127.0.0.1", int(sys.argv[1]), application, threaded=True, request_handler=KeepAlive)
    server.serve_forever()
