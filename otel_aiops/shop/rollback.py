"""`python rollback.py FOLDER SERVICE`: has a live shop take back the newest deployment of a service.

What a playbook's command is allowed to run in the demo; it stands alone, so that it starts at once. Ends with 0 when
the shop has done it, and with 1 when there is nothing to take back or the shop does not answer.
"""

import re
import sys
import time
from pathlib import Path

ANSWER_S = 50.0
WANTED, DONE = ".wanted", ".done"
SERVICE = re.compile(r"[a-z][a-z0-9-]{0,62}")


def main(folder: str, service: str) -> int:
    """Ask, wait for the answer, and print it."""
    if not SERVICE.fullmatch(service):
        print(f"expected the name of a service, got {service!r}")
        return 1
    asked, answered = (Path(folder) / f"{service}{end}" for end in (WANTED, DONE))
    asked.touch()
    ends_s = time.monotonic() + ANSWER_S
    while not answered.exists():
        if time.monotonic() > ends_s:
            asked.unlink(missing_ok=True)
            print(f"the shop did not answer within {ANSWER_S:g} s")
            return 1
        time.sleep(0.05)
    version = answered.read_text()
    answered.unlink()
    print(f"{service} runs {version} again" if version else f"{service} has no deployment to take back")
    return 0 if version else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) == 3 else "usage: rollback.py FOLDER SERVICE")
