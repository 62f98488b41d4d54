#!/usr/bin/env python3
"""Test vectors of the PoWR mathematics, from a second statement of its formulas.

    python3 powr.py           writes powr.txt.gz beside this file
    python3 powr.py --check   says whether powr.txt.gz holds what this program makes

Python 3 and its standard library only; whole numbers only; the same output everywhere. Each line is a case: a
word, the arguments, "=", the result. Lists are comma-separated; parts and factors are in 18 decimals.

    pow f n = f^n                        halflife h = f                   decay v f n = v'
    rep passes failures kappa = R        cap n = power                    rescale powers = powers
    shares rho scores stakes = q         ema average sample tau = average'
    powers L D base q stakes old signed = powers
"""

import gzip
import random
import sys
from pathlib import Path

CASES = 10_000
FEW = 2_000
SEED = "DeepNode PoWR vectors 1"
ONE, PPM, TOTAL, WEIGHT = 10**18, 10**6, 10**8, 2**40
U128 = 2**128 - 1


def largest(low, high, holds):
    """The largest whole number in low..high for which `holds`, which is true up to it (and at `low`)."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def power_of(factor, n):
    """factor^n: the squares of factor, floored, multiplied where n has a bit, lowest first, floored."""
    result = ONE
    for bit in reversed(bin(n)[2:]):
        if bit == "1":
            result = result * factor // ONE
        factor = factor * factor // ONE
    return result


def half_life(h):
    return largest(0, ONE, lambda factor: 2 * power_of(factor, h) <= ONE)


def reputation(passes, failures, kappa):
    return ONE * passes // (kappa + failures + passes)


def cap(n):
    return TOTAL if n == 1 else max(TOTAL // 5, (6 * TOTAL) // (5 * n))


def rescale(powers):
    total = sum(powers)
    if total == 0:
        return powers
    floors = [TOTAL * power // total for power in powers]
    rest = TOTAL - sum(floors)
    return [floor + (1 if at < rest else 0) for at, floor in enumerate(floors)]


def shares(rho, scores, stakes):
    """rho in 18 decimals, of which parts per million count."""
    if not any(scores):
        rho, by_score = PPM, [0] * len(scores)
    else:
        rho, by_score = rho // (ONE // PPM), [ONE * score // sum(scores) for score in scores]
    by_stake = [ONE * stake // sum(stakes) for stake in stakes]
    return [(s * (PPM - rho) + t * rho) // PPM + 1 for s, t in zip(by_score, by_stake)]


def powers(leverage, drift, base, q, stakes, old, signed, steps=None):
    n = len(q)
    carried = [min(TOTAL, leverage * TOTAL * stake // base) for stake in stakes]
    limit = cap(n)
    if sum(min(limit, c) for c in carried) < TOTAL:
        limit = 1 + largest(limit, TOTAL - 1, lambda m: sum(min(m, c) for c in carried) < TOTAL)

    if not any(old):
        low, high = [0] * n, [min(c, limit) for c in carried]
    else:
        delta = [drift * (o + TOTAL // n) // ONE for o in old]
        gain = [d if s else 0 for d, s in zip(delta, signed)]
        ladder = [
            [min(c, limit, o + g) for c, o, g in zip(carried, old, gain)],
            [min(c, max(limit, o), o + g) for c, o, g in zip(carried, old, gain)],
            [min(c, max(limit, o), o + d) for c, o, d in zip(carried, old, delta)],
            [min(c, limit) for c in carried],
        ]
        step = next(at for at, high in enumerate(ladder) if sum(high) >= TOTAL)
        if steps is not None:
            steps[step] += 1
        high = ladder[step]
        low = [min(h, max(0, o - d)) for h, o, d in zip(high, old, delta)]

    weights = [max(1, WEIGHT * share // sum(q)) for share in q]

    def fill(theta):
        return [max(l, min(h, theta * w // WEIGHT)) for w, l, h in zip(weights, low, high)]

    theta = largest(0, TOTAL * WEIGHT, lambda theta: sum(fill(theta)) <= TOTAL)
    result = fill(theta)
    by_fraction = sorted(range(n), key=lambda at: (-(theta * weights[at] % WEIGHT), at))
    while sum(result) < TOTAL:
        for at in by_fraction:
            if sum(result) < TOTAL and result[at] < high[at]:
                result[at] += 1
    return result


# ------------------------------------------------------------------------------------------ random cases
def magnitude(rng, digits):
    """A number of 1 to `digits` digits, each length equally likely, with few significant ones."""
    length = rng.randint(1, digits)
    kept = min(length, 4)
    return rng.randint(10 ** (kept - 1), 10**kept - 1) * 10 ** (length - kept)


def factor(rng):
    return rng.choice([ONE - magnitude(rng, 18), rng.randint(0, ONE), ONE * 167 // 168, 993092495437035902])


def size(rng):
    low, high = rng.choices([(1, 1), (2, 2), (3, 3), (4, 4), (5, 8), (9, 30), (100, 100)], [4, 10, 20, 25, 38, 2.8, 0.2])[0]
    return rng.randint(low, high)


def stakes_of(rng, n):
    kind = rng.randrange(3)
    if kind == 0:
        return [magnitude(rng, 14) for _ in range(n)]
    if kind == 1:
        return [rng.randint(10, 99) * 10**6 for _ in range(n)]
    stake = magnitude(rng, 12)
    return [stake * rng.randint(1, 3) for _ in range(n)]


def old_of(rng, n, stakes):
    """What the set had: nothing (genesis), a random part, about its stake's, some of them newcomers."""
    kind = rng.randrange(8)
    if kind == 0:
        return [0] * n
    if kind < 4:
        old = [rng.randint(1, 100) for _ in range(n)]
    else:
        old = powers(2, ONE // 10, sum(stakes), [stake + 1 for stake in stakes], stakes, [0] * n, [True] * n)
    if kind in (1, 4) and n > 1:
        old[rng.randrange(n)] = 0
    return rescale(old)


def cases(rng):
    for _ in range(CASES):
        f, n = factor(rng), magnitude(rng, rng.choice([2, 4, 9]))
        yield "pow", [f, n], power_of(f, n)
    for h in [*range(1, FEW // 2 + 1), *(magnitude(rng, 9) for _ in range(FEW // 2))]:
        yield "halflife", [h], half_life(h)
    for _ in range(CASES):
        v, f, n = rng.choice([magnitude(rng, 38), rng.randint(0, U128)]), factor(rng), magnitude(rng, 4)
        yield "decay", [v, f, n], v * power_of(f, n) // ONE
    for _ in range(CASES):
        args = [rng.choice([0, magnitude(rng, 20)]), rng.choice([0, magnitude(rng, 20)]), magnitude(rng, 12)]
        yield "rep", args, reputation(*args)
    for n in range(1, CASES + 1):
        yield "cap", [n], cap(n)
    for _ in range(FEW):
        average, sample, tau = rng.randint(0, ONE), rng.choice([0, ONE, rng.randint(0, ONE)]), magnitude(rng, 4)
        yield "ema", [average, sample, tau], (average * (tau - 1) + sample) // tau
    for _ in range(FEW):
        old = [rng.choice([0, 1, magnitude(rng, 8)]) for _ in range(min(size(rng), 5))]
        yield "rescale", [old], rescale(old)
    for _ in range(CASES):
        n = min(size(rng), rng.randint(1, 4))
        scores = [rng.choice([0, magnitude(rng, 24)]) for _ in range(n)]
        rho, stakes = rng.randint(0, PPM) * (ONE // PPM) + rng.choice([0, 7]), stakes_of(rng, n)
        yield "shares", [rho, scores, stakes], shares(rho, scores, stakes)
    steps = [0] * 4
    for _ in range(CASES):
        n = size(rng)
        stakes = stakes_of(rng, n)
        old = old_of(rng, n, stakes)
        if rng.random() < 0.3:  # stake moved since
            at = rng.randrange(n)
            stakes[at] = max(1, stakes[at] * rng.choice([1, 5, 40, 200]) // 20)
        scores = [rng.choice([0, magnitude(rng, 12)]) for _ in range(n)]
        q = rng.choice([shares(ONE // 5, scores, stakes), [magnitude(rng, 6) for _ in range(n)]])
        q = [share // 10**12 + 1 for share in q]
        leverage, drift = rng.choice([2, 2, 2, 3, 5]), rng.choice([ONE // 10] * 5 + [ONE // 20, ONE // 2, ONE, 10**12])
        base = sum(stakes) * rng.choice([100] * 6 + [99, 90, 50]) // 100 or 1
        signed = [rng.random() < 0.7 for _ in range(n)] if rng.random() < 0.4 else [True] * n
        args = [leverage, drift, base, q, stakes, old, [int(s) for s in signed]]
        yield "powers", args, powers(leverage, drift, base, q, stakes, old, signed, steps)
    assert min(steps) >= 100, f"every step of the upper bounds needs cases: {steps}"


def show(value):
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def lines():
    for word, args, result in cases(random.Random(SEED)):
        yield f"{word} {' '.join(map(show, args))} = {show(result)}\n"


def main():
    path = Path(__file__).with_name("powr.txt.gz")
    text = "".join(lines()).encode()
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if gzip.decompress(path.read_bytes()) == text else f"{path} is not what this program makes")
    path.write_bytes(gzip.compress(text, 9, mtime=0))


if __name__ == "__main__":
    main()
