"""Takes feedback from 16 threads on the state directory given, and tells each acknowledged decision on standard output."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from banditroute.config import load
from banditroute.core.types import FeedbackReport, RouteQuery, Signal, SignalKind
from banditroute.wiring import open_engine

THREADS, EACH = 16, 625
CONFIG = {"models": {"a": {}, "b": {}}, "categories": {"chat": {"models": ["a", "b"]}}, "checkpoint_every": 1000}


def main(store: str) -> None:
    engine = open_engine(load(CONFIG), store=store, threaded=True)
    assert engine.wait_ready(60.0)

    def work(_: int) -> None:
        for _ in range(EACH):
            decision = engine.route(RouteQuery("chat"))
            engine.submit(FeedbackReport(decision.id, (Signal(SignalKind.EVAL_SCORE, 0.5),))).result()
            key = engine.signer.verify(decision.id).decision.hex()
            os.write(1, f"{key}\n".encode())  # one write, so whole even if the process dies

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))


if __name__ == "__main__":
    main(sys.argv[1])
