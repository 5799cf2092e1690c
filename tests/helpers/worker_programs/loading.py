"""A follower that takes a minute to load: it says which process it is, and has not come to the leader's store by then."""

from __future__ import annotations

import os
import time

print(os.getpid(), flush=True)
time.sleep(60)
