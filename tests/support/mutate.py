"""Structure-aware mutations of TIFFs and JSON; the same seed gives the same mutation."""

import copy
import json
import random
import struct

INTERESTING = [0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 255, 256, 32767, 32768, 65535, 65536, 2**24,
               2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip
TAGS = [254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 292, 297, 305, 317,
        320, 322, 323, 324, 325, 330, 338, 339, 347, 529, 530, 532, 700, 32997, 32998, 34665,
        33432, 42113, 50838, 51123, 65420, 65426]  # fmt: skip
COMPRESSIONS = [1, 2, 3, 4, 5, 6, 7, 8, 32773, 33003, 33005, 34712, 34887, 34892, 34925, 34933,
                34934, 48124, 50000, 50001, 50002, 65000]  # fmt: skip
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8,
         17: 8, 18: 8}  # fmt: skip


class Tiff:
    """The offsets of entries, tables and tiles of a valid TIFF."""

    def __init__(self, data):
        self.order = "<" if data[:2] == b"II" else ">"
        self.big = struct.unpack_from(self.order + "H", data, 2)[0] == 43
        self.word, self.size = ("Q", 20) if self.big else ("I", 12)
        self.entries, self.links, self.values, self.tiles = [], [], [], []
        at = 8 if self.big else 4
        self.links.append(at)
        waiting = [struct.unpack_from(self.order + self.word, data, at)[0]]
        seen = set()
        while waiting:
            offset = waiting.pop()
            if not offset or offset in seen:
                continue
            seen.add(offset)
            waiting += self._directory(data, offset)

    def _directory(self, data, offset):
        head = "Q" if self.big else "H"
        (count,) = struct.unpack_from(self.order + head, data, offset)
        start = offset + struct.calcsize(head)
        tables, below = {}, []
        for number in range(count):
            at = start + number * self.size
            self.entries.append(at)
            code, kind, many = struct.unpack_from(self.order + "HH" + self.word, data, at)
            inline = at + (12 if self.big else 8)
            nbytes = many * SIZES.get(kind, 1)
            room = 8 if self.big else 4
            where = inline if nbytes <= room else self.number(data, inline, self.word)
            form = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(kind)
            self.values.append((where, form or "B", many if form else nbytes))
            if form:
                tables[code] = struct.unpack_from(f"{self.order}{many}{form}", data, where)
        for offsets, counts in ((273, 279), (324, 325)):
            self.tiles += zip(tables.get(offsets, ()), tables.get(counts, ()), strict=True)
        below += tables.get(330, ())
        end = start + count * self.size
        self.links.append(end)
        return [*below, self.number(data, end, self.word)]

    def number(self, data, at, form):
        return struct.unpack_from(self.order + form, data, at)[0]

    def put(self, data, at, form, value):
        if at + struct.calcsize(form) <= len(data):
            limit = 2 ** (8 * struct.calcsize(form))
            struct.pack_into(self.order + form, data, at, value % limit)


def _value(rng, tiff, data):
    where, form, count = rng.choice(tiff.values)
    at = where + struct.calcsize(form) * rng.randrange(max(1, count))
    if at + struct.calcsize(form) > len(data):
        return
    old = tiff.number(data, at, form)
    new = rng.choice([rng.choice(INTERESTING), old + rng.choice([-1, 1, 7]), old * 2, old // 2,
                      rng.choice(COMPRESSIONS), len(data), len(data) - 1])  # fmt: skip
    tiff.put(data, at, form, new)


def _entry(rng, tiff, data):
    at = rng.choice(tiff.entries)
    part = rng.randrange(5)
    if part == 0:
        tiff.put(data, at, "H", rng.choice(TAGS))
    elif part == 1:
        tiff.put(data, at + 2, "H", rng.choice([*SIZES, 0, 14, 19, 65535]))
    elif part == 2:
        tiff.put(data, at + 4, tiff.word, rng.choice(INTERESTING))
    elif part == 3:
        new = rng.choice([*INTERESTING, len(data), rng.randrange(len(data))])
        tiff.put(data, at + (12 if tiff.big else 8), tiff.word, new)
    else:
        other = rng.choice(tiff.entries)
        data[at : at + tiff.size], data[other : other + tiff.size] = (
            data[other : other + tiff.size], data[at : at + tiff.size],
        )  # fmt: skip


def _twice(rng, tiff, data):
    at, other = rng.choice(tiff.entries), rng.choice(tiff.entries)
    data[at : at + tiff.size] = data[other : other + tiff.size]


def _link(rng, tiff, data):
    target = rng.choice([tiff.links[0], *tiff.entries, rng.randrange(len(data)), 2**32 - 1])
    starts = [at - (8 if tiff.big else 2) for at in tiff.entries]
    tiff.put(data, rng.choice(tiff.links), tiff.word, rng.choice([target, *starts]))


def _bytes(rng, tiff, data):
    offset, count = rng.choice(tiff.tiles)
    if not count:
        return
    at = offset + rng.randrange(count)
    kind = rng.randrange(4)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        length = min(rng.choice([1, 4, 30, 200]), offset + count - at)
        data[at : at + length] = rng.randbytes(length)
    elif kind == 2:
        data[at : offset + count] = bytes(offset + count - at)
    else:  # the head of a stream, which declares its size
        at = offset + rng.randrange(min(count, 60))
        data[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])


def _cut(rng, tiff, data):
    del data[rng.randrange(len(data)) :]


def _anywhere(rng, tiff, data):
    for _ in range(rng.choice([1, 2, 8])):
        data[rng.randrange(len(data))] = rng.randrange(256)


HOW = [_value] * 6 + [_entry] * 5 + [_twice] * 2 + [_link] * 2 + [_bytes] * 5 + [_cut, _anywhere]


def mutated_tiff(seed, original):
    """Return the bytes `original` with one to four mutations."""
    rng = random.Random(seed)
    data = bytearray(original)
    tiff = Tiff(original)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        if data:
            how = rng.choice(HOW)
            try:
                how(rng, tiff, data)
            except IndexError:  # an earlier mutation has cut the file
                break
    return bytes(data)


VALUES = [None, True, 0, -1, 1, 2**31, 2**63, 1e308, "", "..", "../../x", "/etc/hostname", "a\0b",
          [], {}, [[]], [1, 2], {"a": 1}, "NaN", float("nan")]  # fmt: skip


def _overwritten(rng, original):
    data = bytearray(original)
    for _ in range(rng.choice([1, 3, 9])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])


def mutated_json(seed, original):
    """Return JSON with values or keys changed, or some bytes overwritten."""
    rng = random.Random(seed)
    if rng.random() < 0.15:
        return _overwritten(rng, original)
    document = json.loads(original)
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = list(_places(document)) if isinstance(document, dict | list) else []
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1:
            holder[key] = copy.deepcopy(rng.choice([one[k] for one, k in places]))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(document).encode()


def _places(document):
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(pairs):
        yield document, key
        if isinstance(value, dict | list) and value:
            yield from _places(value)
