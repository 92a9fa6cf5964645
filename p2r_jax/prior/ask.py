"""V views times Q queries: asked concurrently, recorded as they arrive, resumable.

An answer that cannot be used is asked for again a stated number of times, then excluded
and counted. A server that fails is left alone for a growing while; if it keeps failing the
run ends, and the next one goes on from the record.
"""

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from p2r_jax.prior.parse import Estimate, UnusableError, answer_schema, parse
from p2r_jax.prior.protocol import (
    Answer,
    Photo,
    ProviderError,
    Request,
    TransientError,
    VlmClient,
)
from p2r_jax.prior.providers import without_keys
from p2r_jax.prior.quantities import Quantity
from p2r_jax.prior.record import Record


@dataclass(frozen=True)
class AskConfig:
    """How often and how fast a model is asked.

    Attributes:
      queries: questions per photo (the paper: 5).
      structured: ask for JSON with a schema instead of free text.
      retries: how often an unusable answer to a query is asked for again.
      concurrency: requests in flight at once.
      sends: how often one request is sent while the server fails.
      backoff_s: wait after its first failure; doubles, at most a minute.
    """

    queries: int = 5
    structured: bool = False
    retries: int = 2
    concurrency: int = 8
    sends: int = 6
    backoff_s: float = 1.0

    def __post_init__(self):
        for name in ("queries", "concurrency", "sends"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.retries < 0 or self.backoff_s < 0:
            raise ValueError("retries and backoff_s must not be negative")


@dataclass(frozen=True)
class Outcome:
    """What became of one query.

    Attributes:
      photo: name of the photo.
      query: index of the query.
      estimates: by quantity; None if no attempt gave a usable answer.
      unusable: per failed attempt, the reason and the raw text.
      answers: every answer, usable or not.
    """

    photo: str
    query: int
    estimates: dict[str, Estimate] | None
    unusable: tuple[tuple[str, str], ...]
    answers: tuple[Answer, ...]


@dataclass
class Tally:
    """What a run sent and got, beside the outcomes; filled in by several threads.

    Attributes:
      sent: requests sent.
      reused: answers taken from the record instead.
      failures: requests that the server did not answer.
    """

    sent: int = 0
    reused: int = 0
    failures: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str) -> None:
        """Add one."""
        with self.lock:
            setattr(self, name, getattr(self, name) + 1)


class Asker:
    """One run: a client, a record, and the way to ask.

    Attributes:
      tally: of requests.
    """

    def __init__(self, client: VlmClient, record: Record | None, config: AskConfig):
        self._client, self._record, self._config = client, record, config
        self._stop = threading.Event()
        self._error: BaseException | None = None  # the first one; it stops the others
        self.tally = Tally()

    def ask_all(
        self, photos: Sequence[Photo], prompt: str, quantities: Sequence[Quantity]
    ) -> list[Outcome]:
        """Every query about every photo, in order of photo and query.

        Ctrl-C waits for what is in flight, so that nothing paid for is lost.

        Raises:
          ValueError: if a photo is given twice.
          ProviderError: if the provider will not answer, or keeps failing.
        """
        _check_distinct(photos)
        tasks = [(photo, query) for photo in photos for query in range(self._config.queries)]
        bar = tqdm(total=len(tasks), desc="prior", unit="query")
        with bar, ThreadPoolExecutor(self._config.concurrency) as pool:
            futures = [pool.submit(self._guarded, p, q, prompt, quantities) for p, q in tasks]
            try:
                self._wait(futures, bar)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _wait(self, futures: Sequence[Future], bar: tqdm) -> None:
        """Show progress until all are done; raises the first error."""
        pending = set(futures)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            if self._error:
                raise self._error
            bar.update(len(done))
            bar.set_postfix(sent=self.tally.sent, reused=self.tally.reused)

    def _guarded(self, *args) -> Outcome:
        """``_query``, whose error keeps the others from being sent."""
        try:
            return self._query(*args)
        except BaseException as error:
            with self.tally.lock:
                self._error = self._error or error
            self._stop.set()
            raise

    def _query(
        self, photo: Photo, query: int, prompt: str, quantities: Sequence[Quantity]
    ) -> Outcome:
        first = first_request(self._config, photo, query, prompt, quantities)
        unusable: list[tuple[str, str]] = []
        answers: list[Answer] = []
        for attempt in range(1 + self._config.retries):
            answer = self._answer(replace(first, attempt=attempt))
            answers.append(answer)
            try:
                estimates = parse(answer, quantities)
            except UnusableError as reason:
                unusable.append((str(reason), answer.text))
                continue
            return Outcome(photo.name, query, estimates, tuple(unusable), tuple(answers))
        return Outcome(photo.name, query, None, tuple(unusable), tuple(answers))

    def _answer(self, request: Request) -> Answer:
        """From the record, else from the client, which is then recorded."""
        if self._record and request.key in self._record.contents.answers:
            self.tally.count("reused")
            return self._record.contents.answers[request.key]
        failures = 0
        while not self._stop.is_set():
            try:
                return self._send(request)
            except TransientError as error:
                failures += 1
                self.tally.count("failures")
                if failures == self._config.sends:
                    raise ProviderError(
                        f"{error}; still so after {failures} sends. Answers so far are recorded: "
                        "run the same command again to go on"
                    ) from error
                self._stop.wait(self._delay(failures, error.retry_after_s))
        raise ProviderError("stopped before it was asked")

    def _send(self, request: Request) -> Answer:
        if self._record:
            self._record.request(request)
        self.tally.count("sent")
        start = time.perf_counter()
        try:
            answer = self._client.ask(request)
        except ProviderError as error:
            if self._record:
                self._record.failure(request, without_keys(str(error)))
            raise
        if self._record:
            self._record.answer(request, answer, round(time.perf_counter() - start, 3))
        return answer

    def _delay(self, failures: int, retry_after_s: float | None) -> float:
        """Doubling, with jitter so that threads do not return together; the server's wish first."""
        if retry_after_s is not None:
            return min(retry_after_s, 60.0)
        return min(self._config.backoff_s * 2 ** (failures - 1), 60.0) * random.uniform(0.5, 1.0)


def first_request(
    config: AskConfig, photo: Photo, query: int, prompt: str, quantities: Sequence[Quantity]
) -> Request:
    """The first attempt at a query."""
    schema = answer_schema(quantities) if config.structured else None
    return Request(prompt, photo, schema, query)


def _check_distinct(photos: Sequence[Photo]) -> None:
    seen: dict[str, str] = {}
    for photo in photos:
        if photo.digest in seen:
            raise ValueError(
                f"{photo.name} shows the same as {seen[photo.digest]}: "
                "the same photo twice is no second view"
            )
        seen[photo.digest] = photo.name
