"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass

from crn_fast import png


@dataclass(frozen=True)
class Settings:
    """What requests make the server hold, beside its engine's process, has these bounds: for bodies
    that come in, `body_memory`; for layouts that wait, a byte a pixel for each of `max_queue`; for
    pictures that are not encoded, three batches; for answers not read, `answer_memory`.
    """

    host: str = "127.0.0.1"
    port: int = 0
    """0 for any that is free."""
    token: str | None = None
    """What `Authorization: Bearer` must carry, if anything."""
    names: tuple[str, ...] = ()
    """Further names that a Host header may have."""
    max_queue: int = 64
    """Requests that may wait; the next is answered 429."""
    max_batch: int | None = None
    """Layouts rendered at once; None for 1 on a CPU, which gains little by more, 8 elsewhere."""
    window: float = 0.002
    """Seconds that a layout waits for company while its batch has room."""
    timeout: float = 30.0
    """Seconds from a request's arrival to its answer; later it is answered 504."""
    client_timeout: float = 15.0
    """Seconds that a client may take to send its headers, then its body, then to read."""
    max_pixels: int = png.MAX_PIXELS
    """Of a layout that is sent."""
    body_memory: int = 256 << 20
    """Bytes of all bodies that are held at once."""
    answer_memory: int = 256 << 20
    """Bytes of all answers that wait to be read; beyond, the slowest readers are cut off."""
    ui: bool = True
    """Whether the paint page is served."""

    @property
    def max_body(self) -> int:
        """Bytes of one body: four a pixel, and room for what a PNG carries besides."""
        return 4 * self.max_pixels + (1 << 20)
