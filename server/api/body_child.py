"""The process of `server.api.body_process`: its classes must not be those of `__main__`."""

from server.api.body_process import serve_parent

if __name__ == "__main__":
    serve_parent()
