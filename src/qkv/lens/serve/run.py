"""Start the server, open the browser, and stop cleanly."""

import importlib.util
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence

from qkv.errors import ArgumentError, FileError, UnsupportedError, must
from qkv.lens.language import sayer
from qkv.lens.reading import Reading

PORT = 8765
"""The port that is tried first, unless one is given; then those after it."""

TRIED = 20

CONNECTIONS = 128
HEAD_BYTES = 1 << 14


def serve(
    models: Mapping[str, Callable[[str], Reading]],
    texts: Sequence[str] = (),
    *,
    port: int | None = None,
    browser: bool = True,
    language: str | None = None,
) -> None:
    """Serve models to a browser on this machine until Ctrl-C; each, by its name, turns a text into a Reading.

        serve({"mine": lambda text: read(model, tokenizer, text)}, ["The cat sat."])

    `language` ("en", "zh") is the terminal's and the page's; by default English, and the browser's.

    Only 127.0.0.1 is listened to, and only who holds the token, which the printed link gives once, is answered.

    Raises: UnsupportedError without starlette and uvicorn; ArgumentError for no model or a port that is none;
    FileError for a port that is taken.
    """
    say = sayer("serve", language)
    check_served(port)
    if not models:
        raise ArgumentError(must("serve", "models", "hold at least one model", "none"))
    import uvicorn

    from qkv.lens.serve.app import make_app
    from qkv.lens.serve.guard import Keys
    from qkv.lens.serve.patience import Patience

    listener = listen(port)
    port = listener.getsockname()[1]

    def link(ticket: str) -> str:
        return f"http://127.0.0.1:{port}/open/{ticket}"

    another = say("another browser? ", "换一个浏览器？")
    keys = Keys(renewed=lambda ticket: print(f"{another}{link(ticket)}", flush=True))
    app = make_app(models, list(texts), port=port, keys=keys, language=language)
    config = uvicorn.Config(
        app, http=Patience, ws="none", log_level="error", access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=CONNECTIONS, h11_max_incomplete_event_size=HEAD_BYTES, timeout_graceful_shutdown=2,
    )  # fmt: skip
    told = say("the link serves once; Ctrl-C stops", "此链接只能用一次；按 Ctrl-C 停止")
    print(f"{say('open', '打开')} {link(keys.ticket)}\n{told}", flush=True)
    if browser:
        # A browser that is started from here may not return before it is closed.
        threading.Thread(target=webbrowser.open, args=(link(keys.ticket),), daemon=True).start()
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
    print(f"\n{say('stopped', '已停止')}", flush=True)


def check_served(port: int | None) -> None:
    """Raise what is wrong before any model is loaded: what is not installed, a port that is none."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        fix = "pip install 'qkv[serve]'"
        raise UnsupportedError(must("serve", "starlette and uvicorn", "be installed", f"no {missing[0]}", fix))
    if port is not None and not 0 <= port < 65536:
        raise ArgumentError(must("serve", "port", "lie in 0..65535", port, "0 takes any that is free"))


def listen(port: int | None) -> socket.socket:
    """Listen on 127.0.0.1: at a port, or at the first free one from PORT on.

    Raises: FileError if it is taken.
    """
    for tried in [port] if port is not None else range(PORT, PORT + TRIED):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", tried))
            listener.listen(CONNECTIONS)
            return listener
        except OSError as error:
            listener.close()
            reason = error.strerror or str(error)
    taken = f"{port}" if port is not None else f"{PORT}..{PORT + TRIED - 1}"
    fix = f"{reason}: choose another with --port"
    raise FileError(must("serve", "port", "be free", taken, fix))
