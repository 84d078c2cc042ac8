"""The shared secret: made at random, and refused when it could be guessed.

Why so strict: whoever probes a listener sees a certificate that was derived from the secret, and can try candidates
against it offline, as fast as their machines go. A random secret of 128 bits cannot be found that way; a sentence can.
"""

from __future__ import annotations

import math
import re
import secrets
from collections import Counter

from .errors import WeakSecret

SHORTEST = 22
"""22 characters of base64 are 132 bits."""
LEAST_BITS = 80
_ADVICE = "make one with `laila secret new` (or uuid.uuid4().hex) and give it to all nodes as a file"
_WORDS = re.compile(
    r"pass(word|wort|phrase)|secret|letmein|qwert|asdf|admin|welcome|changeme|change-me|example|laila|hunter2|"
    r"dragon|monkey|master|summer|winter|default|123456|abcdef|correct.?horse|hello|test(ing)?[^0-9a-f]",
    re.IGNORECASE,
)


def new_secret() -> str:
    """A random secret of 256 bits, 43 characters that need no quoting in shells, files and addresses."""
    while True:
        secret = secrets.token_urlsafe(32)
        if weakness(secret) is None and not secret.startswith("-"):
            return secret


def weakness(secret: str) -> str | None:
    """Why this secret could be guessed, or None. An estimate: it refuses what people type, not every weak choice."""
    if len(secret) < SHORTEST:
        return f"it has {len(secret)} characters; at least {SHORTEST} are needed"
    counts = Counter(secret)
    total = len(secret)
    bits = -sum(count * math.log2(count / total) for count in counts.values())
    if bits < LEAST_BITS or len(counts) < 8:
        return "it repeats itself"
    if re.search(r"\s", secret):
        return "it has white space in it, as phrases that people choose have"
    word = _WORDS.search(secret)
    if word is not None and total < 64:
        return "it contains a word that people choose"
    if total < 64 and not re.search(r"[0-9]", secret):
        return "it has no digit, so it looks like words"
    return None


def check_secret(secret: object) -> str:
    """The secret itself. Raises WeakSecret, which never shows it."""
    if not isinstance(secret, str) or not secret:
        raise WeakSecret(f"no shared secret was given; {_ADVICE}")
    reason = weakness(secret)
    if reason is not None:
        raise WeakSecret(f"the shared secret is too weak: {reason}; {_ADVICE}")
    return secret
