"""The process of `body_process`, whose classes must not be those of `__main__`."""

from server.api.requests.body_process import serve_parent

if __name__ == "__main__":
    serve_parent()
