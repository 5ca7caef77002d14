"""The server: an HTTP API over one engine, and the paint page. Needs the extra [serve].

    socket ──protocol──▶ guard ──api──▶ body ──▶ batching ──▶ process ══shared memory══▶ worker

`protocol` closes slow and shapeless connections, `guard` decides who may ask, `api` says what may
be asked, `body` makes a label map of what came, `batching` holds requests and makes batches,
`process` keeps the one engine process alive, `worker` is that process. `server` puts them together.
"""
