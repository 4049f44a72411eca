"What all tests with malformed files share: a call that may only refuse, damaged bytes, many cases."

import warnings

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from rvos_nb.config import RVOSError

SLOW = 60_000  # ms: a case that takes longer hangs


def cases(count: int):
    "Settings for that many cases, the same in each run."
    return settings(
        max_examples=count,
        deadline=SLOW,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def survives(f, *args):
    "Calls f; only RVOSError may come out."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns of large pictures
        try:
            return f(*args)
        except RVOSError as e:
            str(e).encode("utf-8", errors="backslashreplace")
            return None


def damaged(good: bytes):
    "Strategies that damage a good file: cut, flip bytes, insert, repeat."
    where, byte = st.integers(0, len(good) - 1), st.integers(0, 255)

    def apply(cuts, flips, insert):
        b = bytearray(good)
        for i, v in flips:
            b[i] = v
        at, extra = insert
        b[at:at] = extra
        return bytes(b[:cuts])

    return st.builds(
        apply,
        st.one_of(st.just(10**9), where),
        st.lists(st.tuples(where, byte), max_size=8),
        st.tuples(where, st.binary(max_size=20)),
    )
