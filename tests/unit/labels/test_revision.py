"""A revision of labels is a short text; with it, every replica finds the same parts again."""

import random
from dataclasses import replace

import pytest

from audiocnn.errors import ConfigError
from audiocnn.labels.label_set import LabelPart
from audiocnn.review.revision import Revision

DIGEST = "0123456789abcdef"


def part(listing: str, shard: int) -> LabelPart:
    return LabelPart(
        listing_id=listing, shard=shard, uri=f"/{listing}/{shard}", size=9, version="v"
    )


def test_a_revision_finds_its_parts_among_others() -> None:
    chance = random.Random(7)
    every = [part(listing, shard) for listing in ("aa", "b0b") for shard in range(200)]
    for size in (0, 1, 7, 150, len(every)):
        mine = chance.sample(every, size)
        text = str(Revision.of(mine))
        again = Revision.parse(text)
        assert again == Revision.of(reversed(mine))
        found = again.among(chance.sample(every, len(every)))
        assert found is not None
        assert sorted(found) == sorted(mine)
        if mine:
            assert again.among(one for one in every if one != mine[0]) is None
            changed = [replace(one, version="w") if one == mine[0] else one for one in every]
            assert again.among(changed) is None


def test_many_parts_in_a_row_are_a_short_text() -> None:
    text = str(Revision.of(part("3f2a91c0", shard) for shard in range(100_000)))
    assert len(text) < 50
    assert text.startswith("3f2a91c0:0-99999~")


@pytest.mark.parametrize(
    "text", ["", "x", "aa:0", "aa:~" + DIGEST, "aa:1-~" + DIGEST, "aa:0~0123", "ß:0~" + DIGEST]
)
def test_what_is_no_revision_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a revision"):
        Revision.parse(text)


def test_a_revision_of_a_billion_parts_costs_nothing() -> None:
    huge = Revision.parse("aa:" + ",".join(["0-999999999"] * 1_000) + "~" + DIGEST)
    assert huge.among([part("aa", 3), part("bb", 3)]) is None
